//! A backend, a namespace or what stands before them is out of order; everything else of the address is well.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::task::JoinSet;

use crate::scene::{Differs, Scene, TENANT, hostile, in_tenant, none, objects, only};
use crate::support::driver::Volume;
use crate::support::hostile::{Asked, Reply};

/// OpenBao 2.6.2's answer to every call in a namespace whose API is locked.
const LOCKED: &str = "API access to this namespace has been locked by an administrator - \"tenant/\" must be unlocked to gain access.";
const SEALED: &str = "namespace is sealed";
const CPU: Duration = Duration::from_secs(15);

/// A tenant of each kind has leases, and tries to mount, while what fits is answered so.
pub async fn beside(
    name: &str,
    fits: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> Vec<String> {
    let mut scene = Scene::fronted(name).await;
    let classes = [
        hostile(&objects(5, "hostile/creds/app", "username")),
        hostile(&objects(5, "hostile-kv/app", "key")),
        in_tenant(&objects(5, "hostile/creds/app", "username")),
    ];
    for (at, class) in classes.iter().enumerate() {
        let volume = scene.volume("greedy", &format!("greedy-{at}"));
        let mounted = scene.mount(&volume, class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
    }
    scene.watch_another().await;
    scene.front().script(only(fits, reply));
    let mut attempts = JoinSet::new();
    for number in 0..54_u32 {
        let volume = scene.volume("greedy", &format!("attempt-{number}"));
        let call = scene.call(&volume, &classes[number as usize % 3]);
        let later = Duration::from_millis(100) * number;
        attempts.spawn(async move {
            tokio::time::sleep(later).await;
            call.await
        });
    }
    scene.watch(Duration::from_millis(5500)).await;
    drop(attempts);
    scene.end(CPU).await
}

/// The backend `hostile`, by its reads and by its leases.
fn of_the_backend(asked: &Asked) -> bool {
    asked.path.starts_with("hostile/") || asked.lease().starts_with("hostile/")
}

#[tokio::test]
async fn a_backend_or_a_namespace_that_is_out_of_order_stops_nobody_else() {
    let pages = [502, 503, 504].map(|code| async move {
        beside(&format!("pages of {code}"), of_the_backend, move || {
            Reply::page(code)
        })
        .await
    });
    let namespaces = [("locked", LOCKED), ("sealed", SEALED)].map(|(kind, text)| async move {
        let name = format!("a {kind} namespace");
        let in_namespace = |asked: &Asked| asked.namespace == TENANT;
        beside(&name, in_namespace, move || Reply::error(503, text)).await
    });
    let page = Bytes::from(vec![b'x'; 4 * 1024 * 1024 + 1]);
    let large = beside("error pages of 4 MiB", of_the_backend, move || {
        Reply::Answer(500, Vec::new(), page.clone())
    });
    let (pages, namespaces, large) = tokio::join!(join_all(pages), join_all(namespaces), large);
    none(pages.into_iter().chain(namespaces).chain([large]));
}

#[tokio::test]
async fn sixty_renewals_that_hang_delay_no_other_and_no_revocation() {
    let mut scene = Scene::fronted("renewals that hang").await;
    let class = hostile(&objects(30, "hostile/creds/app", "username"));
    let volumes = [scene.volume("greedy", "one"), scene.volume("greedy", "two")];
    for volume in &volumes {
        let mounted = scene.mount(volume, &class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
    }
    let hangs = only(|asked| asked.renews("hostile/"), || Reply::Hang);
    scene.front().script(hangs);
    // Its lease ends later than those that hang.
    scene.watch_another().await;
    scene.watch(Duration::from_millis(3500)).await;
    volumes[0].unmount();
    scene.watch(Duration::from_secs(2)).await;
    scene.until_revoked(1, "a volume whose renewals hang").await;
    none([scene.end(CPU).await]);
}

async fn revocations_that_hang() -> Vec<String> {
    let mut scene = Scene::fronted("revocations that hang").await;
    let class = in_tenant(&objects(1, "hostile/creds/app", "username"));
    let mut volumes = Vec::new();
    for number in 0..40 {
        let volume = scene.volume("greedy", &format!("greedy-{number}"));
        let mounted = scene.mount(&volume, &class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
        volumes.push(volume);
    }
    let hangs = only(|asked| asked.namespace == TENANT, || Reply::Hang);
    scene.front().script(hangs);
    scene.watch_another().await;
    volumes.iter().for_each(Volume::unmount);
    scene.watch(Duration::from_secs(5)).await;
    scene.end(CPU).await
}

async fn reads_that_hang() -> Vec<String> {
    // A first mount's path is away between kubelet's attempts as well, so that its own deadline ends it.
    let flags = &["-mount-timeout=5s"];
    let mut scene = Scene::fronted_with(
        "reads that hang",
        Differs {
            flags,
            ..Differs::default()
        },
    )
    .await;
    let class = hostile(&objects(8, "hostile-kv/app", "key"));
    let mut volumes = Vec::new();
    for number in 0..5 {
        let volume = scene.volume("greedy", &format!("polled-{number}"));
        let mounted = scene.mount(&volume, &class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
        volumes.push(volume);
    }
    let hangs = only(
        |asked| asked.path.starts_with("hostile-kv/"),
        || Reply::Hang,
    );
    scene.front().script(hangs);
    // Polls, and first mounts.
    for number in 0..20 {
        volumes.push(scene.volume("greedy", &format!("first-{number}")));
    }
    for volume in &volumes {
        scene.begin(volume, &class);
    }
    scene.watch(Duration::from_secs(2)).await;
    let tokens = scene.hostile_tokens();
    scene.expect(tokens >= 20, || format!("{tokens} tokens, less than 20"));
    volumes.iter().for_each(Volume::unmount);
    scene.until_revoked(0, "volumes whose reads hang").await;
    scene.end(CPU).await
}

async fn logins_that_hang() -> Vec<String> {
    let mut scene = Scene::fronted("logins that hang").await;
    let class = hostile(&objects(1, "hostile-kv/app", "key"));
    let hangs = only(|asked| asked.role() == "hostile", || Reply::Hang);
    scene.front().script(hangs);
    for number in 0..100 {
        let volume = scene.volume(&format!("tenant-{}", number % 3), &format!("pod-{number}"));
        scene.begin(&volume, &class);
    }
    scene.watch(Duration::from_secs(5)).await;
    scene.end(CPU).await
}

#[tokio::test]
async fn logins_reads_and_revocations_that_hang_hold_up_nobody_else_and_no_revocation() {
    let scenes = tokio::join!(
        logins_that_hang(),
        reads_that_hang(),
        revocations_that_hang()
    );
    none([scenes.0, scenes.1, scenes.2]);
}

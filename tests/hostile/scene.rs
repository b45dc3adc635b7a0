//! A node with a healthy tenant, watched while another one is hostile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::Status;

use crate::support::driver::{Volume, request};
use crate::support::hostile::{Asked, Hostile, Reply};
use crate::support::meter::Meter;
use crate::support::world::{DATABASE, KV, Setup, World, class};

/// The term of a database lease: it is renewed at its half.
pub const TERM: Duration = Duration::from_secs(6);
/// What must be left of a healthy lease at any time.
const SLACK: Duration = Duration::from_millis(1000);
/// How long a healthy volume's mount may take, on a busy machine.
const MOUNTED: Duration = Duration::from_secs(8);
/// Within what time what ends is revoked (`docs/outages.md`).
pub const REVOKED: Duration = Duration::from_secs(15);
/// Within what time SIGTERM ends the daemon, whose drain has a deadline of 2 s here.
const TERMINATED: Duration = Duration::from_secs(10);
/// The most memory under any load, in MiB.
const PEAK: u64 = 128;
/// Calls of a hostile tenant that are under way longer than this are left to themselves.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is watched, and what was seen.
pub struct Scene {
    name: String,
    pub world: World,
    /// What stands before the server, where something does.
    pub front: Option<Hostile>,
    healthy: Volume,
    files: Value,
    user: String,
    password: String,
    lease: String,
    begun: Instant,
    used: Duration,
    faults: Vec<String>,
    figures: Vec<String>,
}

/// How a scene differs from the usual one.
#[derive(Default)]
pub struct Differs<'a> {
    pub flags: &'a [&'a str],
    /// The hostile tenants' database role is `hostile`; this is its term, else [`TERM`].
    pub term: Option<&'a str>,
}

impl Scene {
    /// A node whose server is as it should be.
    pub async fn new(name: &str) -> Self {
        Self::with(name, None, Differs::default()).await
    }

    /// A node whose server has a scripted front, which passes everything on at first.
    pub async fn fronted(name: &str) -> Self {
        Self::fronted_with(name, Differs::default()).await
    }

    pub async fn fronted_with(name: &str, differs: Differs<'_>) -> Self {
        let front = Hostile::start(|_| Reply::Pass).await;
        Self::with(name, Some(front), differs).await
    }

    pub async fn with(name: &str, front: Option<Hostile>, differs: Differs<'_>) -> Self {
        let mut flags = vec!["-log-level=info", "-shutdown-timeout=2s"];
        let address = front
            .as_ref()
            .map(|front| format!("-vault-addr={}", front.url));
        flags.extend(address.as_deref());
        flags.extend(differs.flags);
        let term = format!("{}s", TERM.as_secs());
        let setup = Setup {
            database: json!({ "default_ttl": term, "max_ttl": "24h" }),
            role: json!({ "token_policies": ["app", "hostile"] }),
            flags: &flags,
            ..Setup::default()
        };
        let world = World::with(setup).await;
        if let Some(front) = &front {
            front.before(&world.vault.url());
        }
        hostile_backend(&world, differs.term.unwrap_or(&term)).await;
        let healthy = Volume::new(&world.node.pods(), "shop", "healthy", "uid-healthy", "v");
        let files = class(&format!("{DATABASE}{KV}"));
        world.mount(&healthy, &files).await;
        let lease = world.vault.live_leases().pop().expect("a lease").id;
        let pid = world.daemon.as_ref().expect("a daemon").pid();
        Self {
            name: name.to_owned(),
            user: healthy.text("username"),
            password: healthy.text("password"),
            lease,
            healthy,
            files,
            front,
            begun: Instant::now(),
            used: Meter::of(pid).cpu(),
            world,
            faults: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub fn front(&self) -> &Hostile {
        self.front.as_ref().expect("a front")
    }

    pub fn meter(&self) -> Meter {
        Meter::of(self.world.daemon.as_ref().expect("a daemon").pid())
    }

    /// Something that must not be.
    pub fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// Says that something must not be where it does not hold.
    pub fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    /// Something worth knowing.
    pub fn figure(&mut self, figure: impl Into<String>) {
        self.figures.push(figure.into());
    }

    /// A hostile volume of a pod in any namespace, whose path is there.
    pub fn volume(&self, namespace: &str, pod: &str) -> Volume {
        let pods = self.world.node.pods();
        let volume = Volume::new(&pods, namespace, pod, &format!("uid-{pod}"), "v");
        volume.prepare();
        volume
    }

    /// One Mount as a future of its own; its outcome is what the files hold together, in bytes.
    pub fn call(
        &self,
        volume: &Volume,
        class: &Value,
    ) -> impl Future<Output = Result<usize, Status>> + Send + 'static {
        let accounts = &self.world.accounts;
        let token = accounts.mint(&volume.namespace, "web", "vault", Duration::from_secs(600));
        let tokens = BTreeMap::from([("vault".to_owned(), token)]);
        let asked = request(volume, &volume.attributes(class, &tokens), "");
        let driver = self.world.driver.clone();
        async move {
            let answer = driver.call(asked).await?;
            Ok(answer.files.iter().map(|file| file.contents.len()).sum())
        }
    }

    /// Lets a Mount run for itself.
    pub fn begin(&self, volume: &Volume, class: &Value) {
        // Its outcome is nobody's: it hangs, or fails.
        tokio::spawn(self.call(volume, class));
    }

    /// Waits for a Mount.
    pub async fn mount(&self, volume: &Volume, class: &Value) -> Result<usize, Status> {
        let limited = tokio::time::timeout(PATIENCE, self.call(volume, class)).await;
        limited.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }

    fn lives(&self) -> bool {
        self.world.vault.verify_user(&self.user, &self.password)
    }

    /// What is left of the healthy lease.
    fn left(&self) -> Duration {
        let leases = self.world.vault.live_leases();
        let lease = leases.iter().find(|lease| lease.id == self.lease);
        lease.map_or(Duration::ZERO, |lease| lease.ttl)
    }

    /// Watches the healthy tenant: its lease, new volumes, a poll, and revocations.
    pub async fn watch(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        let lease = async {
            let mut least = TERM;
            while Instant::now() < until {
                least = least.min(self.left());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            least
        };
        let lives = async {
            let (mut first, mut failed, mut slowest, mut number) =
                (None, 0, [Duration::ZERO; 2], 0);
            while Instant::now() < until || number == 0 {
                number += 1;
                let volume =
                    self.volume("shop", &format!("new-{}-{number}", rand::random::<u32>()));
                match self.life(&volume).await {
                    Ok(took) => {
                        slowest = [slowest[0].max(took[0]), slowest[1].max(took[1])];
                    }
                    Err(fault) => {
                        failed += 1;
                        first.get_or_insert(fault);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let fault = first.map(|fault| format!("{failed} of {number} healthy volumes: {fault}"));
            (fault, slowest, number)
        };
        let (least, (fault, slowest, number)) = tokio::join!(lease, lives);
        self.faults.extend(fault);
        self.expect(least >= SLACK, || {
            format!("the healthy lease had {least:?} of {TERM:?} left")
        });
        self.expect(self.lives(), || "the healthy credential is dead".to_owned());
        self.figure(format!(
            "least left of a healthy lease {:.1} s of {}; {number} new volumes, slowest mount {:.2} s, slowest revocation {:.2} s",
            least.as_secs_f64(),
            TERM.as_secs(),
            slowest[0].as_secs_f64(),
            slowest[1].as_secs_f64(),
        ));
        self.poll().await;
    }

    /// A mount of a healthy volume; how long it took.
    async fn mount_healthy(&self, volume: &Volume) -> Result<Duration, String> {
        let begun = Instant::now();
        let tokens = self.world.tokens();
        let mounted = self.world.driver.mount(volume, &self.files, &tokens);
        match tokio::time::timeout(MOUNTED, mounted).await {
            Ok(Ok(_)) => Ok(begun.elapsed()),
            Ok(Err(status)) => Err(format!("mount: {}", status.message())),
            Err(_) => Err(format!("mount: no answer in {MOUNTED:?}")),
        }
    }

    /// A new volume from its mount to its revocation; how long each took.
    async fn life(&self, volume: &Volume) -> Result<[Duration; 2], String> {
        let took = self.mount_healthy(volume).await?;
        let (user, password) = (volume.text("username"), volume.text("password"));
        volume.unmount();
        let ended = Instant::now();
        while self.world.vault.verify_user(&user, &password) {
            if ended.elapsed() > REVOKED {
                return Err(format!("not revoked in {REVOKED:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok([took, ended.elapsed()])
    }

    /// A poll of the healthy volume, which must give the same credential.
    pub async fn poll(&mut self) {
        let tokens = self.world.tokens();
        let mounted = self.world.driver.mount(&self.healthy, &self.files, &tokens);
        let polled = tokio::time::timeout(MOUNTED, mounted).await;
        match polled {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => return self.fault(format!("a healthy poll: {}", status.message())),
            Err(_) => return self.fault(format!("a healthy poll took more than {MOUNTED:?}")),
        }
        let user = self.healthy.text("username");
        let is_same = user == self.user;
        self.expect(is_same, || {
            "the healthy credential is another one".to_owned()
        });
    }

    /// `kill -9`, some time, and a new start; the healthy tenant may have lost its lease meanwhile.
    pub async fn restart_after(&mut self, pause: Duration) {
        self.note_peak();
        self.world.kill();
        tokio::time::sleep(pause).await;
        self.restarted().await;
    }

    /// A new start after a kill, as kubelet makes one: where the daemon ends by itself, twice more.
    pub async fn restarted(&mut self) {
        let mut ended = 0;
        for _ in 0..3 {
            let mut daemon = self.world.node.spawn();
            let begun = Instant::now();
            let mut lives = !daemon.has_ended();
            // What it cannot survive comes within a moment of its start.
            while lives && (!daemon.ready().await || begun.elapsed() < Duration::from_millis(500)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                lives = !daemon.has_ended() && begun.elapsed() < PATIENCE;
            }
            self.world.daemon = Some(daemon);
            if lives {
                break;
            }
            ended += 1;
        }
        if ended > 0 {
            self.figure(format!("{ended} starts that came to nothing"));
        }
        // One to find out what the worker breaks at; the next one sets that aside.
        self.expect(ended <= 1, || format!("{ended} starts came to nothing"));
        self.begun = Instant::now();
        self.used = Duration::ZERO;
    }

    /// Another volume of the healthy tenant is watched from now on, whose lease begins now.
    pub async fn watch_another(&mut self) {
        let known = self.world.vault.live_leases();
        self.healthy = self.volume("shop", "later");
        let mounted = self.mount_healthy(&self.healthy).await;
        if let Err(fault) = mounted {
            self.fault(format!("a healthy volume: {fault}"));
            return;
        }
        self.user = self.healthy.text("username");
        self.password = self.healthy.text("password");
        let leases = self.world.vault.live_leases().into_iter();
        let mut fresh = leases.filter(|lease| lease.path == "database/creds/app");
        let fresh = fresh.find(|lease| known.iter().all(|known| known.id != lease.id));
        self.lease = fresh.expect("a new lease").id;
    }

    /// The healthy tenant leaves the node to the others.
    pub async fn leave(&mut self) {
        self.healthy.unmount();
        while self.lives() && self.begun.elapsed() < REVOKED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until healthy volumes mount again, after a server that was away for all.
    pub async fn comes_back(&mut self) {
        let begun = Instant::now();
        let volume = self.volume("shop", "first");
        while let Err(fault) = self.mount_healthy(&volume).await {
            if begun.elapsed() > REVOKED {
                return self.fault(format!("not back after {REVOKED:?}: {fault}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A healthy volume comes and goes.
    pub async fn serves_all(&mut self) {
        let volume = self.volume("shop", &format!("new-{}", rand::random::<u32>()));
        match self.life(&volume).await {
            Ok([mount, revocation]) => self.figure(format!(
                "a healthy mount {:.2} s, its revocation {:.2} s",
                mount.as_secs_f64(),
                revocation.as_secs_f64()
            )),
            Err(fault) => self.fault(fault),
        }
    }

    /// The living tokens of hostile tenants.
    pub fn hostile_tokens(&self) -> usize {
        let tokens = self.world.vault.live_tokens();
        let is_hostile = |role: Option<&String>| role.is_some_and(|role| role == "hostile");
        tokens
            .iter()
            .filter(|token| is_hostile(token.meta.get("role")))
            .count()
    }

    /// What has ended must be revoked down to this many of the hostile tenants' tokens.
    pub async fn until_revoked(&mut self, left: usize, what: &str) {
        let begun = Instant::now();
        while self.hostile_tokens() > left && begun.elapsed() < REVOKED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let tokens = self.hostile_tokens();
        self.figure(format!(
            "{what}: revoked after {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
        self.expect(tokens <= left, || {
            format!("{what}: {tokens} tokens are not revoked after {REVOKED:?}")
        });
    }

    /// The processor's time over a span in which nothing is due must be next to none.
    pub async fn is_idle(&mut self, over: Duration, most: Duration) {
        let before = self.meter().cpu();
        tokio::time::sleep(over).await;
        let used = self.meter().cpu().saturating_sub(before);
        self.figure(format!("idle: {used:?} of CPU in {over:?}"));
        self.expect(used <= most, || {
            format!("idle, {used:?} of CPU in {over:?}")
        });
    }

    pub fn note_peak(&mut self) {
        match self.meter().peak() {
            Some(peak) => {
                self.figure(format!("peak {peak} MiB"));
                self.expect(peak < PEAK, || format!("{peak} MiB at its peak"));
            }
            None => self.fault("the daemon has ended"),
        }
    }

    /// The end: peak, processor time (at most `cpu`), SIGTERM; what must not have been.
    pub async fn end(mut self, cpu: Duration) -> Vec<String> {
        self.note_peak();
        let meter = self.meter();
        let used = meter.cpu().saturating_sub(self.used);
        let over = self.begun.elapsed();
        let files = meter.descriptors();
        self.figure(format!(
            "CPU {:.2} s in {:.0} s, {files} descriptors",
            used.as_secs_f64(),
            over.as_secs_f64()
        ));
        self.expect(used <= cpu, || {
            format!("{used:?} of CPU in {over:?}, more than {cpu:?}")
        });
        let mut daemon = self.world.daemon.take().expect("a daemon");
        if daemon.has_ended() {
            self.fault("the daemon has ended by itself");
        } else {
            daemon.signal();
            let begun = Instant::now();
            while !daemon.has_ended() && begun.elapsed() < TERMINATED {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let took = begun.elapsed();
            self.figure(format!("SIGTERM {:.1} s", took.as_secs_f64()));
            self.expect(daemon.has_ended(), || {
                format!("SIGTERM is not obeyed in {TERMINATED:?}")
            });
        }
        println!("figures of {}: {}", self.name, self.figures.join("; "));
        let name = &self.name;
        self.faults
            .iter()
            .map(|fault| format!("{name}: {fault}"))
            .collect()
    }
}

/// The engine `hostile` with the role `app`, open to every namespace by the role `hostile`; a policy for it
/// and for whatever else a hostile tenant may read.
async fn hostile_backend(world: &World, term: &str) {
    let admin = &world.admin;
    admin.engine("hostile", "database", "").await;
    let config = json!({ "allowed_roles": "*" });
    admin.write("hostile/config/db", config.clone()).await;
    let creds = json!({ "db_name": "db", "default_ttl": term, "max_ttl": "24h" });
    admin.write("hostile/roles/app", creds.clone()).await;
    let hcl = r#"
        path "hostile/*" { capabilities = ["read", "update"] }
        path "hostile-kv/*" { capabilities = ["read"] }
    "#;
    admin.policy("hostile", hcl).await;
    admin.engine("hostile-kv", "kv", "1").await;
    admin
        .write("hostile-kv/app", json!({ "key": "value" }))
        .await;
    let role = json!({
        "bound_service_account_namespaces": ["*"],
        "token_policies": ["app", "hostile"],
    });
    admin.role("kubernetes", "hostile", role.clone()).await;
    let tenant = admin.in_namespace(TENANT).await;
    tenant
        .kubernetes("kubernetes", &world.accounts.url(), json!({}))
        .await;
    tenant.role("kubernetes", "hostile", role).await;
    tenant.policy("hostile", hcl).await;
    tenant.engine("hostile", "database", "").await;
    tenant.write("hostile/config/db", config).await;
    tenant.write("hostile/roles/app", creds).await;
}

/// A namespace of the server with a backend of its own.
pub const TENANT: &str = "tenant";

/// A class that logs in there.
pub fn in_tenant(objects: &str) -> Value {
    json!({ "roleName": "hostile", "vaultNamespace": TENANT, "objects": objects })
}

/// A class of the hostile tenants' role.
pub fn hostile(objects: &str) -> Value {
    json!({ "roleName": "hostile", "objects": objects })
}

/// The same for a server of the tenant's own.
pub fn own_server(address: &str, objects: &str) -> Value {
    json!({ "roleName": "hostile", "vaultAddress": address, "objects": objects })
}

/// Objects that are one request each.
pub fn objects(number: usize, path: &str, key: &str) -> String {
    let key = match key {
        "" => String::new(),
        key => format!(", secretKey: {key}"),
    };
    let objects = (0..number)
        .map(|at| format!("\n- {{objectName: file-{at}, secretPath: \"{path}?n={at}\"{key}}}"));
    objects.collect()
}

/// A script that treats what fits in one way and passes on everything else.
pub fn only(
    fits: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| if fits(asked) { reply() } else { Reply::Pass }
}

/// Everything that must not have been, of several scenes.
pub fn none(faults: impl IntoIterator<Item = Vec<String>>) {
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

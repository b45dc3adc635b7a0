//! As much as a class may hold, and what is told of more.

use super::*;

fn list(count: usize, object: impl Fn(usize) -> String) -> Value {
    json!({ "objects": (0..count).map(object).collect::<String>() })
}

#[test]
fn five_hundred_objects_with_arguments_and_long_names_are_read() {
    let arguments: String = (0..16).map(|n| format!("n{n}: v{n}, ")).collect();
    let spec = parsed(list(500, |n| {
        format!("- objectName: {n:0>255}\n  secretPath: pki/issue/{n}\n  method: PUT\n  secretKey: certificate\n  secretArgs: {{{arguments}}}\n")
    }))
    .spec;
    assert_eq!(spec.objects.len(), 500);
    assert_eq!(spec.requests().len(), 500);
    let anchored = parsed(list(500, |n| match n {
        0 => "- &usual {objectName: n0, secretPath: kv/app, filePermission: 0400, method: GET}\n"
            .to_owned(),
        n => format!("- {{<<: *usual, objectName: n{n}}}\n"),
    }));
    assert_eq!(anchored.spec.objects[499].mode, 0o400);
    // Each alias is a copy: what they copy is bounded.
    let bomb = refused(list(500, |n| match n {
        0 => format!(
            "- {{objectName: n0, secretPath: p, secretKey: &big {}}}\n",
            "x".repeat(300_000)
        ),
        n => format!("- {{objectName: n{n}, secretPath: p, secretKey: *big}}\n"),
    }));
    assert!(bomb.contains("cannot be read: budget breached"), "{bomb}");
    let told = refused(list(501, |n| {
        format!("- objectName: a{n}\n  secretPath: kv/app\n")
    }));
    assert!(told.contains("there are 501, and at most 500"), "{told}");
}

#[test]
fn names_are_as_long_as_the_driver_can_write_them() {
    let name = |length: usize| {
        let full = format!("{}/", "x".repeat(255)).repeat(20);
        full[..length].trim_end_matches('/').to_owned()
    };
    let most = path::longest_file(TARGET);
    let of = |length: usize| json!([{"objectName": name(length), "secretPath": "p"}]).to_string();
    assert_eq!(object(&of(most)).name.len(), most);
    let told = refused(json!({ "objects": of(most + 1) }));
    assert!(
        told.contains(&format!(
            "is {} bytes long, and {most} are the most",
            most + 1
        )),
        "{told}"
    );
    assert!(TARGET.len() + 33 + most == 4095);
}

#[test]
fn what_is_too_long_is_refused_by_its_length() {
    let huge = "n".repeat(900_000);
    for name in [
        "vaultNamespace",
        "roleName",
        "audience",
        "vaultAddress",
        "vaultAuthMountPath",
    ] {
        let value = match name {
            "vaultAddress" => format!("https://{huge}"),
            _ => huge.clone(),
        };
        let told = refused(json!({ name: value }));
        assert!(
            told.contains(name) && told.contains("bytes long, and 4096"),
            "{told:.300}"
        );
        assert!(told.len() < 1024, "{name}: {}", told.len());
    }
    for path in [huge.clone(), format!("kv/app?{huge}")] {
        let told = refused(list(1, |_| {
            format!("- objectName: a\n  secretPath: {path}\n")
        }));
        assert!(
            told.contains("secretPath") && told.contains("bytes long"),
            "{told:.300}"
        );
        assert!(told.len() < 1024);
    }
    let whole = parsed_with(
        &attributes(json!({"vaultNamespace": "n".repeat(1024 * 1024)})),
        "",
    );
    let told = whole.err().unwrap().to_string();
    assert!(told.contains("bytes are more than 1048576"), "{told}");
}

#[test]
fn a_message_stays_short_whatever_the_class_holds() {
    let awkward = "é\u{1f511}\u{202e}\"%".repeat(40);
    for objects in [
        list(500, |n| {
            format!("- objectName: ../{n}\n  secretPath: ..\n  method: FOO\n")
        }),
        list(500, |n| {
            json!([{"objectName": format!("/{awkward}{n}"), "secretPath": "a/../b", "encoding": awkward, "filePermission": awkward}]).to_string().trim_matches(['[', ']']).to_owned().replace('{', "- {") + "\n"
        }),
        list(500, |_| "- x\n".to_owned()),
        list(500, |_| {
            format!("- objectName: a/{}\n  secretPath: p\n", "y".repeat(200))
        }),
    ] {
        let told = refused(objects);
        assert!(told.len() <= 4096, "{}", told.len());
        assert!(told.contains("… and ") && told.ends_with(" more"), "{told}");
    }
}

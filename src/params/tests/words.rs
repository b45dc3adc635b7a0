//! Words of a class: `onUnmount`, and hints for what is written in another's.

use super::*;
use crate::spec::OnUnmount;

#[test]
fn what_the_end_does_is_revoke_unless_the_class_says_expire() {
    let given = |over: Value| parsed(over).spec.on_unmount;
    assert_eq!(given(json!({})), OnUnmount::Revoke);
    for word in ["expire", "Expire", "EXPIRE"] {
        assert_eq!(given(json!({ "onUnmount": word })), OnUnmount::Expire);
    }
    for word in ["revoke", "Revoke", ""] {
        assert_eq!(given(json!({ "onUnmount": word })), OnUnmount::Revoke);
    }
    for word in ["keep", "true", " expire"] {
        let told = refused(json!({ "onUnmount": word }));
        assert!(
            told.contains("onUnmount") && told.contains("neither revoke nor expire"),
            "{told}"
        );
    }
    let told = parsed(json!({"onUmount": "expire"})).warnings.join("");
    assert!(told.contains("did you mean \"onUnmount\"?"), "{told}");
}

#[test]
fn hints_name_the_place_where_a_word_belongs() {
    for (over, hint) in [
        (json!({"secretObjects": "x"}), "beside `parameters`"),
        (json!({"secretPath": "x"}), "below `objects`"),
        (json!({"secrets": "x"}), "did you mean \"objects\"?"),
        (json!({"audience": "[vault, other]"}), "looks like a list"),
        (json!({"audience": "vault,other"}), "looks like a list"),
        (
            json!({"objects": "- objectName: a\n  secretPath: p\n  content: base64\n"}),
            "objects[0]: unknown field \"content\" has no effect: did you mean \"encoding\"?",
        ),
        (
            json!({"objects": "- objectName: a\n  secretPath: p\n  vaultNamespace: team\n"}),
            "beside `objects`",
        ),
        (
            json!({"objects": "- objectName: a\n  secretPath: p\n  objectType: secretsmanager\n"}),
            "another provider's",
        ),
    ] {
        let told = parsed(over.clone()).warnings.join("\n");
        assert!(told.contains(hint), "{over}: {told}");
    }
    for (over, hint) in [
        (
            json!({"audience": ["vault"]}),
            "audience: is a list: name one audience",
        ),
        (
            json!({"objects": [{"objectName": "a"}]}),
            "write `objects: |`",
        ),
        (json!({"vaultSkipTLSVerify": true}), "quote it in the class"),
        (json!({"secretObjects": []}), "beside `parameters`"),
    ] {
        let told = refused(over.clone());
        assert!(told.contains(hint), "{over}: {told}");
    }
}

//! One reply for several objects of which only one has the arguments.
//!
//! The incumbents keep a Mount's replies by method and path alone, so a class of theirs may write `secretArgs`
//! once, at `certificate`, and leave it out at `ca_chain` and `private_key`. We tell requests apart by their
//! arguments too; an object without any beside exactly one request that has some means that one.

use std::collections::BTreeMap;

use super::fault::shown;
use crate::spec::{Method, Object, Request};

/// What the incumbents tell requests by.
type Place = (Method, String, Vec<(String, String)>);

fn place(request: &Request) -> Place {
    (request.method, request.path.clone(), request.query.clone())
}

/// Gives each object without arguments those of the one request of its method, path and query that has some.
/// Warns where there are several, and where one was probably meant.
pub fn share(objects: &mut [Object], warnings: &mut Vec<String>) {
    let mut with_args: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    for object in objects.iter() {
        if let Some(args) = &object.request.args {
            let known = with_args.entry(place(&object.request)).or_default();
            if !known.contains(args) {
                known.push(args.clone());
            }
        }
    }
    if with_args.is_empty() {
        return;
    }
    for (index, object) in objects.iter_mut().enumerate() {
        let request = &mut object.request;
        if request.args.is_some() {
            continue;
        }
        match with_args.get(&place(request)).map(Vec::as_slice) {
            Some([args]) => request.args = Some(args.clone()),
            Some(several) => warnings.push(format!(
                "objects[{index}]: {} {:?} is asked with {} different secretArgs, and here with none, which is a request of its own: repeat the secretArgs of the reply that is meant, or write `secretArgs: {{}}` to ask with none",
                request.method.as_str(),
                shown(&request.path),
                several.len()
            )),
            None => {
                if let Some(other) = differs_by_method(request, &with_args) {
                    warnings.push(format!(
                        "objects[{index}]: {} {:?} is a request of its own beside the {} with secretArgs: write `method: {}` here too for a part of its reply",
                        request.method.as_str(),
                        shown(&request.path),
                        other.as_str(),
                        other.as_str()
                    ));
                }
            }
        }
    }
}

/// The method of the same place that has arguments.
fn differs_by_method(
    request: &Request,
    with_args: &BTreeMap<Place, Vec<String>>,
) -> Option<Method> {
    let same = |(_, path, query): &&Place| *path == request.path && *query == request.query;
    with_args.keys().find(same).map(|(method, ..)| *method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Encoding, Selector};

    fn object(method: Method, path: &str, args: Option<&str>) -> Object {
        Object {
            name: "file".to_owned(),
            request: Request {
                method,
                path: path.to_owned(),
                query: Vec::new(),
                args: args.map(str::to_owned),
            },
            selector: Selector::Response,
            encoding: Encoding::Utf8,
            mode: 0o644,
        }
    }

    fn shared(mut objects: Vec<Object>) -> (Vec<Option<String>>, Vec<String>) {
        let mut warnings = Vec::new();
        share(&mut objects, &mut warnings);
        let args = objects.into_iter().map(|object| object.request.args);
        (args.collect(), warnings)
    }

    #[test]
    fn arguments_that_stand_once_hold_for_every_part_of_the_reply() {
        let a = Some(r#"{"common_name":"a"}"#);
        for order in [
            [a, None, None],
            [None, a, None],
            [None, None, a],
            [a, None, a],
        ] {
            let objects = order.map(|args| object(Method::Put, "pki/issue/web", args));
            let (args, warnings) = shared(objects.to_vec());
            assert!(args.iter().all(|args| args.as_deref() == a), "{order:?}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn among_several_none_is_guessed() {
        let (args, warnings) = shared(vec![
            object(Method::Put, "pki/issue/web", Some(r#"{"common_name":"a"}"#)),
            object(Method::Put, "pki/issue/web", Some(r#"{"common_name":"b"}"#)),
            object(Method::Put, "pki/issue/web", None),
        ]);
        assert_eq!(args[2], None);
        assert!(warnings[0].starts_with("objects[2]: PUT \"pki/issue/web\" is asked with 2"));
        assert!(!warnings[0].contains("common_name"), "no argument is shown");
    }

    #[test]
    fn another_method_path_or_query_is_another_request() {
        let mut queried = object(Method::Put, "pki/issue/web", None);
        queried.request.query = vec![("a".to_owned(), "b".to_owned())];
        let (args, warnings) = shared(vec![
            object(Method::Put, "pki/issue/web", Some("{}")),
            object(Method::Get, "pki/issue/web", None),
            object(Method::Put, "pki/issue/other", None),
            queried,
        ]);
        assert_eq!(args[1..], [None, None, None]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].ends_with("write `method: PUT` here too for a part of its reply"));
    }
}

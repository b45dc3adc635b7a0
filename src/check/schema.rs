//! `leasehold schema`: a JSON Schema of what may stand under `objects`, for editors.

use serde_json::{Value, json};

/// The schema (draft 2020-12) of the list.
#[must_use]
pub fn objects() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "objects of a SecretProviderClass for leasehold",
        "type": "array",
        "minItems": 1,
        "maxItems": 500,
        "items": {
            "type": "object",
            "required": ["objectName", "secretPath"],
            "additionalProperties": false,
            "properties": {
                "objectName": {
                    "type": "string", "minLength": 1,
                    "description": "The file's path within the volume, relative and without `..`",
                },
                "secretPath": {
                    "type": "string", "minLength": 1,
                    "description": "The API path as in `vault read`, with or without `v1/`; it may have a query",
                    "examples": ["secret/data/app", "database/creds/app"],
                },
                "secretKey": {
                    "type": "string",
                    "description": "The key of the reply's data; without it the file holds the whole reply as JSON",
                },
                "method": {
                    "type": "string", "pattern": "^(?i:GET|LIST|POST|PUT)$",
                    "description": "GET where it is left out",
                },
                "secretArgs": {
                    "type": "object",
                    "description": "The request's fields, e.g. common_name of a certificate",
                },
                "filePermission": {
                    "anyOf": [
                        { "type": "integer", "minimum": 0, "maximum": 511 },
                        { "type": "string", "pattern": "^(0o?[0-7]{1,4}|[0-9]{1,3})$" },
                    ],
                    "description": "Permission bits, octal (0400) or decimal (256)",
                },
                "encoding": {
                    "type": "string", "pattern": "^(?i:utf-8|base64|hex)$",
                    "description": "How the value is decoded before it is written",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::params::FIELDS;

    #[test]
    fn it_names_what_the_parser_knows_and_no_more() {
        let schema = objects();
        let properties = schema.pointer("/items/properties").unwrap();
        let named: BTreeSet<&str> = properties
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(named, FIELDS.iter().copied().collect());
    }
}

use grey_proof::Check;
use serde_json::{Value, json};

use crate::support::scene::{NOW, Scene, base64, policy};

/// One file: a bundle, what is asked of it, and the verdict.
#[derive(Clone)]
pub struct Vector {
    pub name: String,
    bundle: Vec<u8>,
    policy: String,
    now: u64,
    known: String,
    overall: &'static str,
    check: Option<Check>,
}

impl Vector {
    pub fn text(&self) -> String {
        let Vector { name, bundle, policy, now, known, overall, check } = self;
        let check = check.map_or("null".to_owned(), |c| format!("\"{c}\""));
        let bundle = base64(bundle);
        format!(
            "{{\n  \"name\": \"{name}\",\n  \"bundle\": \"{bundle}\",\n  \"policy\": {policy},\n  \"now\": {now},\n  \
             \"known\": {known},\n  \"expect\": {{ \"overall\": \"{overall}\", \"check\": {check} }}\n}}\n"
        )
    }

    pub fn policy(self, policy: Value) -> Vector {
        Vector { policy: policy.to_string(), ..self }
    }

    /// The usual policy with further members.
    pub fn and_policy(self, more: Value) -> Vector {
        let mut all = policy();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.policy(all)
    }

    pub fn known(self, known: Value) -> Vector {
        self.known_text(&known.to_string())
    }

    /// JSON whose digits count.
    pub fn known_text(self, known: &str) -> Vector {
        Vector { known: known.to_owned(), ..self }
    }

    pub fn now(self, now: u64) -> Vector {
        Vector { now, ..self }
    }

    pub fn overall(self, overall: &'static str) -> Vector {
        Vector { overall, ..self }
    }

    pub fn fails(self, check: Check) -> Vector {
        Vector { overall: "not valid", check: Some(check), ..self }
    }
}

/// Valid under the usual policy, until said otherwise.
pub fn of_bytes(name: &str, bundle: Vec<u8>) -> Vector {
    let policy = policy().to_string();
    Vector {
        name: name.to_owned(),
        bundle,
        policy,
        now: NOW,
        known: json!({}).to_string(),
        overall: "valid",
        check: None,
    }
}

pub fn of(name: &str, scene: &Scene) -> Vector {
    of_bytes(name, scene.build())
}

/// A policy or known values that are no such thing.
pub struct ErrorVector {
    pub name: String,
    policy: String,
    known: String,
    error: &'static str,
}

impl ErrorVector {
    pub fn policy(name: &str, policy: &Value) -> ErrorVector {
        ErrorVector {
            name: format!("policy-{name}"),
            policy: policy.to_string(),
            known: "{}".to_owned(),
            error: "policy",
        }
    }

    pub fn known(name: &str, known: &str) -> ErrorVector {
        ErrorVector {
            name: format!("known-{name}"),
            policy: policy().to_string(),
            known: known.to_owned(),
            error: "known",
        }
    }

    pub fn text(&self) -> String {
        let ErrorVector { name, policy, known, error } = self;
        format!(
            "{{\n  \"name\": \"{name}\",\n  \"policy\": {policy},\n  \"known\": {known},\n  \"error\": \"{error}\"\n}}\n"
        )
    }
}

//! `grey proof replay`: a node runs the request again, and the bytes are compared.

use grey_core::{DType, Tensor};
use grey_proof::{Outcome, TensorScheme, hash_tensors};
use serde_json::Value;

use super::{
    compare::{Difference, compare},
    file::ProofFile,
};
use crate::{
    EXIT_NO, EXIT_OK,
    args::ReplayArgs,
    client::Client,
    encoding::{Base64, SaltSource, base64, escaped, hex},
    failure::Failure,
    infer::{known_request, read_outputs},
    verbs::{print, print_json, text},
};

const REPLAY: &str = "/grey/v1/replay";
/// What the node says where all bytes are the same.
const REPRODUCED: &str = "reproduced";

/// Asks a node for a replay and prints how it ended; the exit code is the answer.
pub(crate) fn replay(client: &Client, args: &ReplayArgs, json: bool) -> Result<u8, Failure> {
    let (bundle, proof, _) = ProofFile::read(&args.file)?.open(&args.file)?;
    let request = known_request(&args.input)?;
    let recorded = args.output.as_deref().map(read_outputs).transpose()?;
    let salt = args.salt.as_ref().map(SaltSource::read).transpose()?;
    let salted = match (proof.claims().tensor_scheme, &salt) {
        (TensorScheme::Salted, None) => Err("the proof is salted, and no salt is given"),
        (TensorScheme::Plain, Some(_)) => Err("a salt is given, but the proof is not salted"),
        (TensorScheme::Salted, Some(_)) | (TensorScheme::Plain, None) => Ok(()),
    };
    salted.map_err(|why| {
        Failure::usage(why).hint("--salt BASE64 or --salt @FILE is the salt of the request, if it had one")
    })?;
    if let (Some(path), Some(outputs), Outcome::Ok { output_hash, .. }) =
        (&args.output, &recorded, &proof.claims().outcome)
    {
        let found =
            hash_tensors(outputs, salt.as_ref()).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))?;
        if found != *output_hash {
            return Err(Failure::refused(format!(
                "{} is not the answer that the proof is of: expected output_hash {}, found {}",
                path.display(),
                hex(output_hash),
                hex(&found)
            )));
        }
    }
    let mut parameters = vec![("grey_proof", Value::from(base64(&bundle.proof)))];
    parameters.extend(salt.map(|salt| ("grey_salt", base64(&salt).into())));
    let mut answer = client.post_body(REPLAY, &request.inputs_with(parameters)?)?;
    let result = text(&answer, "result");
    if result.is_empty() {
        return Err(client.stranger("result"));
    }
    let differences = match &recorded {
        None => None,
        Some(recorded) => Some(compare(recorded, &outputs(client, &answer)?)),
    };
    if json {
        if let (Some(differences), Some(object)) = (&differences, answer.as_object_mut()) {
            let differences = serde_json::to_value(differences);
            let differences =
                differences.map_err(|e| Failure::unexpected(format!("cannot write the differences: {e}")))?;
            object.insert("output_differences".to_owned(), differences);
        }
        print_json(&answer)?;
    } else {
        print(&told(&answer, &result, differences.as_deref()))?;
    }
    Ok(if result == REPRODUCED { EXIT_OK } else { EXIT_NO })
}

/// The outputs of a replay, as tensors.
fn outputs(client: &Client, answer: &Value) -> Result<Vec<Tensor>, Failure> {
    let listed = answer.get("outputs").and_then(Value::as_array).ok_or_else(|| client.stranger("outputs"))?;
    let one = |o: &Value| -> Option<Tensor> {
        let dtype: DType = o.get("datatype")?.as_str()?.parse().ok()?;
        let shape = o.get("shape")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()?;
        let Base64(data) = o.get("data")?.as_str()?.parse().ok()?;
        Tensor::new(o.get("name")?.as_str()?, dtype, shape, data).ok()
    };
    let all: Option<Vec<Tensor>> = listed.iter().map(one).collect();
    all.ok_or_else(|| Failure::unexpected("the node's outputs cannot be read"))
}

fn told(answer: &Value, result: &str, differences: Option<&[Difference]>) -> String {
    let at = |pointer: &str| escaped(answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
    let what = match result {
        REPRODUCED => "the same bytes again",
        "differs" => "other bytes, though this node has the engine, machine and threads that the proof states",
        "profile-differs" => "other bytes, on a node that is not what the proof states",
        _ => "as the node says",
    };
    let mut out = format!(
        "{}: {what}; model {} version {}, class {}\n",
        escaped(result),
        at("/model/id"),
        at("/model/version"),
        escaped(&text(answer, "class")),
    );
    for d in answer.get("profile_differences").and_then(Value::as_array).into_iter().flatten() {
        let member = |name: &str| escaped(&text(d, name));
        out.push_str(&format!("{}: recorded {}, here {}\n", member("member"), member("recorded"), member("here")));
    }
    if result != REPRODUCED {
        out.push_str(&format!(
            "output_hash: recorded {}, here {}\n",
            at("/output_hash/recorded"),
            at("/output_hash/replayed")
        ));
    }
    for d in differences.into_iter().flatten() {
        out.push_str(&format!("{}\n", d.told()));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_end_is_told() {
        let answer = |result: &str, differences: Value| {
            json!({
                "result": result, "model": {"id": "m", "version": "1"}, "class": "slot",
                "output_hash": {"recorded": "aa", "replayed": "bb"}, "profile_differences": differences,
            })
        };
        let of = |a: &Value| told(a, &text(a, "result"), None);
        assert_eq!(
            of(&answer("reproduced", json!([]))),
            "reproduced: the same bytes again; model m version 1, class slot\n"
        );
        let version = json!([{"member": "engine_version", "recorded": "1.32.0", "here": "1.30.0"}]);
        let said = of(&answer("profile-differs", version.clone()));
        assert!(
            said.contains("\nengine_version: recorded 1.32.0, here 1.30.0\noutput_hash: recorded aa, here bb\n"),
            "{said}"
        );
        assert!(of(&answer("reproduced", version)).contains("engine_version: recorded"));
        // What differs may stand at the end.
        let device = |last: &str| format!("cpu;{};{last}", "flag,".repeat(40));
        let (recorded, here) = (device("avx512"), device("avx2\u{1b}"));
        let said = of(&answer("reproduced", json!([{"member": "device", "recorded": recorded, "here": here}])));
        let here = here.replace('\u{1b}', "\\u{1b}");
        assert!(said.ends_with(&format!("\ndevice: recorded {recorded}, here {here}\n")), "{said}");
    }
}

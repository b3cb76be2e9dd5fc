//! Finds out whether rows of different requests may share a run. Without I/O: it says what to run
//! next and is fed what came out.
//!
//! A dynamic first axis is no proof: a recurrence over time or a softmax over the first axis has
//! one, too, and batching it would put one tenant's data into another's answer. So the same batch
//! runs twice; then a row stays while all others change, by hostile values, and its bytes must not
//! change; then the row alone must agree with the row in the batch.

use grey_core::{DType, Payload, Signature, Tensor};

use crate::{
    madeup::{Filling, Source, floats32, floats64},
    random::SplitMix64,
};

/// Rows of the probe's batches.
const ROWS: u64 = 4;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rows do not mix.
    Independent,
    /// They do, or nothing is proven; the reason in words.
    Dependent(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run these inputs, in the signature's order, and feed the outputs.
    Run(Vec<Tensor>),
    /// The probe is over.
    Verdict(Verdict),
}

/// How the other rows are filled, one after the other.
const FILLINGS: [Filling; 5] =
    [Filling::Random, Filling::Thousandfold, Filling::Zero, Filling::Infinite, Filling::NotANumber];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Again,
    Others { filling: usize, row: u64 },
    Alone,
}

/// See the module.
#[derive(Debug)]
pub struct Probe {
    source: Source,
    random: SplitMix64,
    /// Which kind of inputs is tried.
    kind: usize,
    stage: Stage,
    base: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Fillings under which the model ran.
    fillings_run: usize,
    repeated: Option<bool>,
    verdict: Option<Verdict>,
}

impl Probe {
    /// A probe of a model; `seed` chooses the values.
    pub fn new(signature: Signature, seed: u64) -> Self {
        Self::with_example(signature, None, seed)
    }

    /// A probe that turns to the inputs of an example where made-up ones show nothing. They fit the signature
    /// and stand in its order.
    pub fn with_example(signature: Signature, example: Option<Vec<Tensor>>, seed: u64) -> Self {
        let verdict = signature.batch_candidate().err().map(Verdict::Dependent);
        Probe {
            source: Source::new(signature, example),
            random: SplitMix64::new(seed),
            kind: 0,
            stage: Stage::First,
            base: Vec::new(),
            outputs: Vec::new(),
            fillings_run: 0,
            repeated: None,
            verdict,
        }
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        if let Some(v) = &self.verdict {
            return Step::Verdict(v.clone());
        }
        let inputs = match self.stage {
            Stage::First => loop {
                if let Some(base) = self.source.tensors(ROWS, self.kind, &mut self.random) {
                    self.base = base;
                    break Some(self.base.clone());
                }
                match self.source.example_after(self.kind) {
                    Some(example) => self.kind = example,
                    None => break None,
                }
            },
            Stage::Again => Some(self.base.clone()),
            Stage::Others { filling, row } => self.vary(FILLINGS[filling % FILLINGS.len()], row),
            Stage::Alone => self.base.iter().map(|t| t.slice_rows(0, 1)).collect(),
        };
        match inputs {
            Some(inputs) => Step::Run(inputs),
            None => {
                self.end(Verdict::Dependent("not probed: no input of a reasonable size could be made up".into()));
                self.step()
            }
        }
    }

    /// The outcome of the last [`Step::Run`].
    pub fn feed(&mut self, result: Result<Vec<Tensor>, String>) {
        match (self.stage, result) {
            (Stage::First, Err(why)) => {
                self.kind += 1;
                if self.kind >= self.source.kinds() {
                    self.does_not_run(&why);
                }
            }
            (Stage::First, Ok(outputs)) => {
                if let Some(odd) = outputs.iter().find(|t| t.rows() != Some(ROWS)) {
                    let why = format!("output '{}' has shape {:?} for {ROWS} rows", odd.name(), odd.shape());
                    return self.end(Verdict::Dependent(why));
                }
                let all_equal = outputs.iter().all(|t| {
                    let first = row(t, 0);
                    (1..ROWS).all(|r| row(t, r) == first)
                });
                if all_equal {
                    if let Some(example) = self.source.example_after(self.kind) {
                        self.kind = example;
                        return;
                    }
                    let why = "not proven: the outputs of all probed rows are equal; declare batch_axis to batch it";
                    return self.end(Verdict::Dependent(why.into()));
                }
                self.outputs = outputs;
                self.stage = Stage::Again;
            }
            (Stage::Again, Ok(outputs)) => {
                self.repeated = Some(outputs == self.outputs);
                if outputs != self.outputs {
                    return self.end(Verdict::Dependent(
                        "the same batch gave other bytes: the model draws random numbers".into(),
                    ));
                }
                self.stage = Stage::Others { filling: 0, row: 0 };
            }
            (Stage::Others { filling, row: kept }, result) => {
                match result {
                    Ok(outputs) => {
                        let same = outputs.len() == self.outputs.len()
                            && outputs.iter().zip(&self.outputs).all(|(a, b)| row(a, kept) == row(b, kept));
                        if !same {
                            return self
                                .end(Verdict::Dependent("rows mix: a row changed with the rows beside it".into()));
                        }
                        self.fillings_run += 1;
                    }
                    // Some models refuse some values; the other fillings still count.
                    Err(why) => tracing::debug!(?filling, "a probe's filling does not run: {why}"),
                }
                self.stage = match (kept, filling + 1) {
                    (0, _) => Stage::Others { filling, row: ROWS - 1 },
                    (_, next) if next < FILLINGS.len() => Stage::Others { filling: next, row: 0 },
                    _ if self.fillings_run < 2 => {
                        let why = "not proven: the model does not run with other rows beside a row";
                        return self.end(Verdict::Dependent(why.into()));
                    }
                    _ => Stage::Alone,
                };
            }
            (Stage::Alone, Ok(outputs)) => {
                for (alone, together) in outputs.iter().zip(&self.outputs) {
                    let together = together.slice_rows(0, 1);
                    if !together.is_some_and(|t| close(alone, &t)) {
                        let why = format!("output '{}' of a row alone differs from the row in a batch", alone.name());
                        return self.end(Verdict::Dependent(why));
                    }
                }
                self.end(Verdict::Independent);
            }
            (Stage::Again | Stage::Alone, Err(why)) => self.does_not_run(&why),
        }
    }

    /// Whether the same batch gave the same bytes again; `None` if it did not come to that.
    pub fn repeated(&self) -> Option<bool> {
        self.repeated
    }

    fn does_not_run(&mut self, why: &str) {
        let tried = self.source.tried();
        self.end(Verdict::Dependent(format!("not proven: the model does not run on {tried} ({why})")));
    }

    fn end(&mut self, v: Verdict) {
        self.verdict = Some(v);
    }

    /// The base with every row but `kept` filled anew.
    fn vary(&mut self, filling: Filling, kept: u64) -> Option<Vec<Tensor>> {
        let base = std::mem::take(&mut self.base);
        let of_example = self.source.is_example(self.kind);
        let varied = base
            .iter()
            .map(|t| {
                let mut data = Payload::default();
                for r in 0..ROWS {
                    if r == kept {
                        t.slice_rows(r, r + 1)?.data().chunks().iter().for_each(|c| data.push(c.clone()));
                    } else {
                        data.push(filling.row(&mut self.random, &t.slice_rows(r, r + 1)?, of_example));
                    }
                }
                Tensor::new(t.name(), t.dtype(), t.shape().to_vec(), data).ok()
            })
            .collect();
        self.base = base;
        varied
    }
}

fn row(t: &Tensor, r: u64) -> Option<Payload> {
    Some(t.slice_rows(r, r + 1)?.data().clone())
}

/// Equal within the dtype's tolerance: integers and strings exactly, 16-bit floats 1e-2, others
/// 1e-4, relative to the larger value (to 1 for small ones); NaN equals NaN.
fn close(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    let (x, y) = (a.data().to_contiguous(), b.data().to_contiguous());
    let halves = |data: &[u8], f: fn([u8; 2]) -> f64| data.as_chunks::<2>().0.iter().map(|b| f(*b)).collect::<Vec<_>>();
    let (x, y, tolerance): (Vec<f64>, Vec<f64>, f64) = match a.dtype() {
        DType::Fp16 => {
            let f = |b| half::f16::from_le_bytes(b).to_f64();
            (halves(&x, f), halves(&y, f), 1e-2)
        }
        DType::Bf16 => {
            let f = |b| half::bf16::from_le_bytes(b).to_f64();
            (halves(&x, f), halves(&y, f), 1e-2)
        }
        DType::Fp32 => (floats32(&x).map(f64::from).collect(), floats32(&y).map(f64::from).collect(), 1e-4),
        DType::Fp64 => (floats64(&x).collect(), floats64(&y).collect(), 1e-4),
        _ => return x == y,
    };
    x.iter().zip(&y).all(|(p, q)| {
        p == q || (p.is_nan() && q.is_nan()) || (p - q).abs() <= tolerance * 1f64.max(p.abs()).max(q.abs())
    })
}

#[cfg(test)]
mod tests {
    use grey_core::{Dim, TensorSpec};

    use super::*;

    fn spec(name: &str, datatype: DType, width: u64) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: vec![Dim::Symbol("N".into()), Dim::Fixed(width)] }
    }

    fn signature(input: DType) -> Signature {
        Signature { inputs: vec![spec("x", input, 3)], outputs: vec![spec("y", DType::Fp32, 3)] }
    }

    fn probe(input: DType, mut model: impl FnMut(Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, String>) -> Verdict {
        let mut p = Probe::new(signature(input), 42);
        for _ in 0..100 {
            match p.step() {
                Step::Verdict(v) => return v,
                Step::Run(inputs) => {
                    let t = &inputs[0];
                    let flat = t.data().to_contiguous();
                    let numbers: Vec<f32> = match t.dtype() {
                        DType::Fp32 => floats32(&flat).collect(),
                        _ => flat.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
                    };
                    let rows = numbers.chunks(3).map(<[f32]>::to_vec).collect();
                    p.feed(model(rows).map(|rows| {
                        let data: Vec<u8> = rows.iter().flatten().flat_map(|f| f.to_le_bytes()).collect();
                        vec![Tensor::new("y", DType::Fp32, vec![rows.len() as u64, 3], data).unwrap()]
                    }));
                }
            }
        }
        panic!("the probe does not end");
    }

    fn reason(v: Verdict) -> String {
        match v {
            Verdict::Dependent(r) => r,
            Verdict::Independent => "independent".into(),
        }
    }

    fn by_row(f: impl Fn(&[f32]) -> Vec<f32>) -> impl Fn(Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, String> {
        move |rows| Ok(rows.iter().map(|r| f(r)).collect())
    }

    #[test]
    fn a_row_by_row_model_is_independent() {
        let f = |r: &[f32]| r.iter().map(|v| (v * 2.0 + 1.0).max(0.0)).collect();
        assert_eq!(probe(DType::Fp32, by_row(f)), Verdict::Independent);
        assert_eq!(probe(DType::Int64, by_row(|r| r.iter().map(|v| v * 3.0 + r[0]).collect())), Verdict::Independent);
    }

    #[test]
    fn models_that_mix_rows_are_caught() {
        let softmax = |rows: Vec<Vec<f32>>| {
            let sum: Vec<f32> = (0..3).map(|c| rows.iter().map(|r| r[c].exp()).sum()).collect();
            Ok(rows.iter().map(|r| (0..3).map(|c| r[c].exp() / sum[c]).collect()).collect())
        };
        assert!(reason(probe(DType::Fp32, softmax)).starts_with("rows mix"));
        let cumulative = |rows: Vec<Vec<f32>>| {
            let mut acc = vec![0.0; 3];
            Ok(rows
                .iter()
                .map(|r| {
                    (0..3).for_each(|c| acc[c] += r[c]);
                    acc.clone()
                })
                .collect())
        };
        assert!(reason(probe(DType::Fp32, cumulative)).starts_with("rows mix"));
        // Only a value that compares with NaN or infinity gives this one away.
        let largest = |rows: Vec<Vec<f32>>| {
            let infinite = rows.iter().flatten().any(|v| v.is_infinite());
            Ok(rows.iter().map(|r| r.iter().map(|v| if infinite { v + 1.0 } else { *v }).collect()).collect())
        };
        assert!(reason(probe(DType::Fp32, largest)).starts_with("rows mix"));
    }

    #[test]
    fn what_proves_nothing_is_not_batched() {
        assert!(reason(probe(DType::Fp32, by_row(|_| vec![1.0; 3]))).starts_with("not proven: the outputs of all"));
        assert!(reason(probe(DType::Fp32, |_| Err("no".into()))).contains("does not run on made-up input (no)"));
        let alone_differs = |rows: Vec<Vec<f32>>| {
            let n = rows.len() as f32;
            Ok(rows.iter().map(|r| r.iter().map(|v| v * n).collect()).collect())
        };
        assert!(reason(probe(DType::Fp32, alone_differs)).contains("alone differs"));
        let fewer = |rows: Vec<Vec<f32>>| Ok(rows[1..].to_vec());
        assert!(reason(probe(DType::Fp32, fewer)).contains("for 4 rows"));
    }

    #[test]
    fn chance_is_caught() {
        let mut r = SplitMix64::new(1);
        let noisy = move |rows: Vec<Vec<f32>>| {
            Ok(rows.iter().map(|x| x.iter().map(|v| v + (r.next() % 100) as f32).collect()).collect())
        };
        assert!(reason(probe(DType::Fp32, noisy)).contains("random numbers"));
    }

    #[test]
    fn a_fixed_first_axis_needs_no_run() {
        let mut s = signature(DType::Fp32);
        s.inputs[0].shape[0] = Dim::Fixed(4);
        let mut p = Probe::new(s, 1);
        assert!(matches!(p.step(), Step::Verdict(Verdict::Dependent(why)) if why.contains("is always 4")));
    }
}

//! Finds out in which places of a run a row keeps its bytes. Without I/O: it says what to run next
//! and is fed what came out.
//!
//! A few rows run alone. Then, at each batch size, they run together, in turn, so that every place of
//! the batch holds one of them: twice, as the same run must repeat. Then some of them stay in their
//! places (first, middle, last) while all other rows change, by hostile values. Bytes that change in
//! one place break every proof; bytes that only differ between places bind a replay to the place.

use bytes::Bytes;
use grey_core::{Payload, Signature, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    batcher::BatcherConfig,
    madeup::{Filling, Source},
    random::SplitMix64,
};

/// Most batch sizes that are tested.
const SIZES_MAX: usize = 8;
/// Rows that are followed. Odd, so that they take turns in the places that vector code favours.
const ROWS: u32 = 5;
/// Different rows that stand beside a followed row; in a larger batch they repeat.
const BESIDE: usize = 4;
/// Largest input of a run, in elements; a larger batch is not tested.
const ELEMENTS_MAX: usize = 32 << 20;
/// Fillings that must have run for the test to say something.
const FILLINGS_RUN_MIN: usize = 2;

/// What a self-test found, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// The same run gave other bytes.
    Changes,
    /// A row changed with the rows beside it.
    Mixes,
    /// A row kept its bytes in one place, whatever stood beside it; not in all places, or no other
    /// was tested.
    Slot,
    /// A row kept its bytes in all places.
    Everywhere,
    /// The test could show nothing.
    Nothing,
}

/// The result of a self-test, as profile records keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTestRecord {
    /// What it found.
    pub found: Found,
    /// Where, in words.
    pub reason: String,
    /// Zero rows beside a row made the model fail, and copies of the row did not.
    pub zero_rows_refused: bool,
    /// Batch sizes that were to be tested; empty where whole runs were.
    pub sizes: Vec<u32>,
}

/// The batch sizes to test: 1, 2, the largest, and others that runs can have between them.
pub fn sizes(config: &BatcherConfig) -> Vec<u32> {
    let all = config.bucket_sizes();
    let mut chosen = vec![1, 2];
    chosen.extend(all.last().filter(|n| **n > 2));
    let rest: Vec<u32> = all.into_iter().filter(|n| !chosen.contains(n)).collect();
    let room = SIZES_MAX - chosen.len();
    if rest.len() <= room {
        chosen.extend(rest);
    } else {
        chosen.extend((0..room).filter_map(|i| rest.get(i * rest.len() / room)));
    }
    chosen.sort_unstable();
    chosen
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run these inputs, in the signature's order, and feed the outputs.
    Run(Vec<Tensor>),
    /// The test is over.
    Found(SelfTestRecord),
}

/// What stands beside the rows that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Filled(Filling),
    /// Copies of the first row that stays.
    Copies,
}

const OTHERS: [Others; 6] = [
    Others::Filled(Filling::Random),
    Others::Filled(Filling::Thousandfold),
    Others::Filled(Filling::Zero),
    Others::Filled(Filling::Infinite),
    Others::Filled(Filling::NotANumber),
    Others::Copies,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A made-up input as a whole.
    Whole,
    WholeAgain,
    /// One row by itself.
    Alone(usize),
    /// Followed rows in every place of the batch size with this index.
    Together(usize),
    TogetherAgain(usize),
    /// The `kept`-th choice of places stays, the others are filled.
    Beside {
        size: usize,
        kept: usize,
        others: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub struct SelfTest {
    source: Source,
    random: SplitMix64,
    sizes: Vec<u32>,
    /// Which kind of inputs is tried.
    kind: usize,
    stage: Stage,
    /// Inputs of the whole run, or the followed rows: one tensor each per input.
    base: Vec<Vec<Tensor>>,
    /// Outputs of the whole run, or of each followed row alone.
    alone: Vec<Vec<Tensor>>,
    /// Outputs of the batch size that is tested now.
    together: Vec<Tensor>,
    /// Which of [`OTHERS`] ran.
    ran: [bool; OTHERS.len()],
    zero_refused: bool,
    /// The first reason why not everywhere.
    differs: Option<String>,
    end: Option<SelfTestRecord>,
}

impl SelfTest {
    /// A test of a row in batches of `sizes` rows.
    pub fn rows(signature: Signature, sizes: Vec<u32>, seed: u64) -> Self {
        let end = match signature.batch_candidate() {
            Ok(()) => None,
            Err(why) => Some((Found::Nothing, why)),
        };
        let mut test = Self::new(signature, sizes, Stage::Alone(0), seed);
        if let Some((found, why)) = end {
            test.end(found, why);
        }
        test
    }

    /// A test of whole runs, for what never shares one.
    pub fn whole(signature: Signature, seed: u64) -> Self {
        Self::new(signature, Vec::new(), Stage::Whole, seed)
    }

    fn new(signature: Signature, sizes: Vec<u32>, stage: Stage, seed: u64) -> Self {
        SelfTest {
            source: Source::new(signature, None),
            random: SplitMix64::new(seed),
            sizes,
            kind: 0,
            stage,
            base: Vec::new(),
            alone: Vec::new(),
            together: Vec::new(),
            ran: [false; OTHERS.len()],
            zero_refused: false,
            differs: None,
            end: None,
        }
    }

    /// The same test, which turns to the inputs of an example where made-up ones show nothing. They fit the
    /// signature and stand in its order.
    pub fn with_example(mut self, example: Option<Vec<Tensor>>) -> Self {
        self.source = Source::new(self.source.signature, example);
        self
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        loop {
            if let Some(record) = &self.end {
                return Step::Found(record.clone());
            }
            match self.inputs() {
                Some(inputs) => return Step::Run(inputs),
                None => self.not_made(),
            }
        }
    }

    /// The outcome of the last [`Step::Run`].
    pub fn feed(&mut self, result: Result<Vec<Tensor>, String>) {
        match (self.stage, result) {
            (Stage::Whole | Stage::Alone(0), Err(why)) => {
                self.kind += 1;
                self.base.clear();
                if self.kind >= self.source.kinds() {
                    self.does_not_run(&why);
                }
            }
            (Stage::Alone(_), Err(why)) => self.does_not_run(&why),
            (Stage::Whole, Ok(outputs)) => {
                self.alone = vec![outputs];
                self.stage = Stage::WholeAgain;
            }
            (Stage::WholeAgain, result) => self.whole_again(result),
            (Stage::Alone(n), Ok(outputs)) => self.ran_alone(n, outputs),
            (Stage::Together(size), Ok(outputs)) => match self.odd_output(&outputs, self.size(size)) {
                Some(why) => self.end(Found::Nothing, why),
                None => {
                    self.compare_places(&outputs, size);
                    self.together = outputs;
                    self.stage = Stage::TogetherAgain(size);
                }
            },
            (Stage::TogetherAgain(_), Ok(outputs)) if outputs != self.together => {
                self.end(Found::Changes, "the same batch gave other bytes".into());
            }
            (Stage::TogetherAgain(size), Ok(_)) if self.size(size) < 2 => self.next_size(size),
            (Stage::TogetherAgain(size), Ok(_)) => self.stage = Stage::Beside { size, kept: 0, others: 0 },
            (Stage::Together(size) | Stage::TogetherAgain(size), Err(why)) => {
                let rows = self.size(size);
                self.not_everywhere(|| format!("the model does not run with {rows} rows ({why})"));
                self.next_size(size);
            }
            (Stage::Beside { size, kept, others }, result) => self.ran_beside(size, kept, others, result),
        }
    }

    fn size(&self, index: usize) -> u32 {
        self.sizes.get(index).copied().unwrap_or(1)
    }

    /// Places whose rows stay, in turn: all at once where enough others are left to change.
    fn kept(rows: u32) -> Vec<Vec<u32>> {
        let mut places = vec![0, rows / 2, rows.saturating_sub(1)];
        places.dedup();
        if rows as usize > 2 * places.len() { vec![places] } else { places.into_iter().map(|p| vec![p]).collect() }
    }

    fn inputs(&mut self) -> Option<Vec<Tensor>> {
        match self.stage {
            Stage::Whole => {
                let whole = self.source.tensors(ROWS.into(), self.kind, &mut self.random)?;
                self.base = vec![whole.clone()];
                Some(whole)
            }
            Stage::WholeAgain => self.base.first().cloned(),
            Stage::Alone(n) => {
                if self.base.is_empty() {
                    let all = self.source.tensors(ROWS.into(), self.kind, &mut self.random)?;
                    let row = |r: u32| all.iter().map(|t| t.slice_rows(r.into(), u64::from(r) + 1)).collect();
                    self.base = (0..ROWS).map(row).collect::<Option<_>>()?;
                }
                self.base.get(n).cloned()
            }
            Stage::Together(size) | Stage::TogetherAgain(size) => {
                let rows = self.size(size);
                let inputs = 0..self.source.signature.inputs.len();
                let turn =
                    |base: &[&Tensor], place: u32| base.get(place as usize % base.len()).map(|t| t.data().clone());
                inputs.map(|index| self.input(index, rows, turn)).collect()
            }
            Stage::Beside { size, kept, others } => {
                let rows = self.size(size);
                let stay = Self::kept(rows).into_iter().nth(kept)?;
                self.beside(rows, &stay, *OTHERS.get(others)?)
            }
        }
    }

    /// Input `index` of a batch, whose row at each place is what `row` makes of all followed rows.
    fn input(
        &self,
        index: usize,
        rows: u32,
        mut row: impl FnMut(&[&Tensor], u32) -> Option<Payload>,
    ) -> Option<Tensor> {
        let base: Vec<&Tensor> = self.base.iter().filter_map(|b| b.get(index)).collect();
        let like = *base.first()?;
        let mut shape = like.shape().to_vec();
        *shape.first_mut()? = rows.into();
        grey_core::element_count(&shape).filter(|n| *n <= ELEMENTS_MAX)?;
        let mut data = Payload::default();
        for place in 0..rows {
            row(&base, place)?.chunks().iter().for_each(|c| data.push(c.clone()));
        }
        Tensor::new(like.name(), like.dtype(), shape, data).ok()
    }

    fn beside(&mut self, rows: u32, stay: &[u32], others: Others) -> Option<Vec<Tensor>> {
        let first = *stay.first()?;
        let of_example = self.source.is_example(self.kind);
        // Made before the batch, as they take random numbers.
        let mut fill: Vec<Vec<Bytes>> = Vec::new();
        for index in 0..self.source.signature.inputs.len() {
            let like: Vec<&Tensor> = self.base.iter().filter_map(|b| b.get(index)).collect();
            fill.push(match others {
                Others::Copies => like.get(first as usize % like.len())?.data().chunks().to_vec(),
                Others::Filled(f) => (0..BESIDE)
                    .map(|n| Some(f.row(&mut self.random, like.get(n % like.len())?, of_example)))
                    .collect::<Option<_>>()?,
            });
        }
        let inputs = fill.iter().enumerate().map(|(index, fill)| {
            self.input(index, rows, |base, place| {
                if stay.contains(&place) {
                    return base.get(place as usize % base.len()).map(|t| t.data().clone());
                }
                match others {
                    Others::Copies => Some(fill.iter().cloned().collect()),
                    Others::Filled(_) => fill.get(place as usize % BESIDE).cloned().map(Payload::from),
                }
            })
        });
        inputs.collect()
    }

    /// The inputs of the stage cannot be made up.
    fn not_made(&mut self) {
        match self.stage {
            Stage::Together(size) | Stage::TogetherAgain(size) | Stage::Beside { size, .. } => {
                let rows = self.size(size);
                self.not_everywhere(|| format!("a batch of {rows} rows is too large to be tested"));
                self.next_size(size);
            }
            Stage::Whole | Stage::WholeAgain | Stage::Alone(_) => {
                if let Some(example) = self.source.example_after(self.kind).filter(|_| self.base.is_empty()) {
                    self.kind = example;
                    return;
                }
                self.end(Found::Nothing, "no input of a reasonable size could be made up".into());
            }
        }
    }

    fn whole_again(&mut self, result: Result<Vec<Tensor>, String>) {
        match result {
            Ok(outputs) if self.alone.first() == Some(&outputs) => {
                self.end(Found::Slot, "the same run gave the same bytes".into());
            }
            Ok(_) => self.end(Found::Changes, "the same run gave other bytes".into()),
            Err(why) => self.does_not_run(&why),
        }
    }

    fn ran_alone(&mut self, n: usize, outputs: Vec<Tensor>) {
        if let Some(why) = self.odd_output(&outputs, 1) {
            return self.end(Found::Nothing, why);
        }
        self.alone.push(outputs);
        if n + 1 < self.base.len() {
            self.stage = Stage::Alone(n + 1);
            return;
        }
        if self.alone.iter().skip(1).all(|o| Some(o) == self.alone.first()) {
            if let Some(example) = self.source.example_after(self.kind) {
                self.kind = example;
                self.base.clear();
                self.alone.clear();
                self.stage = Stage::Alone(0);
                return;
            }
            return self.end(Found::Nothing, "the outputs of all rows are equal".into());
        }
        self.begin_size(0);
    }

    /// Compares every row of a batch with the same row alone.
    fn compare_places(&mut self, outputs: &[Tensor], size: usize) {
        let rows = self.size(size);
        for (index, output) in outputs.iter().enumerate() {
            let alone: Vec<&Payload> = self.alone.iter().filter_map(|o| o.get(index)).map(Tensor::data).collect();
            let turns = alone.iter().cycle().take(rows as usize);
            let expected: Payload = turns.flat_map(|p| p.chunks().iter().cloned()).collect();
            let alike =
                self.alone.iter().all(|o| o.get(index).is_some_and(|t| t.shape().get(1..) == output.shape().get(1..)));
            if alike && expected == *output.data() {
                continue;
            }
            let place =
                (0..rows).find(|p| alone.get(*p as usize % alone.len().max(1)).copied() != row(output, *p).as_ref());
            let name = output.name();
            self.not_everywhere(|| {
                format!(
                    "output '{name}' of a row at position {} of a batch of {rows} is not that of the row alone",
                    place.unwrap_or(0)
                )
            });
        }
    }

    fn ran_beside(&mut self, size: usize, kept: usize, others: usize, result: Result<Vec<Tensor>, String>) {
        let rows = self.size(size);
        let choices = Self::kept(rows);
        let filling = OTHERS.get(others).copied();
        match result {
            Ok(outputs) => {
                if let Some(why) = self.odd_output(&outputs, rows) {
                    return self.end(Found::Nothing, why);
                }
                for place in choices.get(kept).into_iter().flatten() {
                    for (now, before) in outputs.iter().zip(&self.together) {
                        if now.shape() != before.shape() || row(now, *place) != row(before, *place) {
                            let why = format!(
                                "output '{}' of a row at position {place} of a batch of {rows} changed with the rows beside it",
                                now.name()
                            );
                            return self.end(Found::Mixes, why);
                        }
                    }
                }
                if let Some(ran) = self.ran.get_mut(others) {
                    *ran = true;
                }
            }
            // Some models refuse some values, which says nothing of those that they take.
            Err(why) => {
                tracing::debug!(?filling, rows, "a filling of the self-test does not run: {why}");
                self.zero_refused |= filling == Some(Others::Filled(Filling::Zero));
            }
        }
        if others + 1 < OTHERS.len() {
            self.stage = Stage::Beside { size, kept, others: others + 1 };
        } else if kept + 1 < choices.len() {
            self.stage = Stage::Beside { size, kept: kept + 1, others: 0 };
        } else {
            self.next_size(size);
        }
    }

    fn begin_size(&mut self, size: usize) {
        match self.alone.first() {
            // That batch has run already.
            Some(first) if self.size(size) < 2 => {
                self.together = first.clone();
                self.stage = Stage::TogetherAgain(size);
            }
            _ => self.stage = Stage::Together(size),
        }
    }

    fn next_size(&mut self, size: usize) {
        self.together = Vec::new();
        if size + 1 < self.sizes.len() {
            return self.begin_size(size + 1);
        }
        if self.ran.iter().filter(|r| **r).count() < FILLINGS_RUN_MIN {
            return self.end(Found::Nothing, "the model does not run with other rows beside a row".into());
        }
        match self.differs.take() {
            Some(why) => self.end(Found::Slot, why),
            None => {
                let why = format!("a row has the same bytes at every position of batches of {:?} rows", self.sizes);
                self.end(Found::Everywhere, why);
            }
        }
    }

    /// What is wrong with outputs that should have `rows` rows.
    fn odd_output(&self, outputs: &[Tensor], rows: u32) -> Option<String> {
        let expected = self.source.signature.outputs.len();
        if outputs.len() != expected {
            return Some(format!("{} outputs, the signature has {expected}", outputs.len()));
        }
        let odd = outputs.iter().find(|t| t.rows() != Some(rows.into()))?;
        Some(format!("output '{}' has shape {:?} for {rows} rows", odd.name(), odd.shape()))
    }

    fn not_everywhere(&mut self, why: impl FnOnce() -> String) {
        if self.differs.is_none() {
            self.differs = Some(why());
        }
    }

    fn does_not_run(&mut self, why: &str) {
        let tried = self.source.tried();
        self.end(Found::Nothing, format!("the model does not run on {tried} ({why})"));
    }

    fn end(&mut self, found: Found, reason: String) {
        let copies_ran = OTHERS.iter().zip(self.ran).any(|(o, ran)| *o == Others::Copies && ran);
        self.end = Some(SelfTestRecord {
            found,
            reason,
            zero_rows_refused: self.zero_refused && copies_ran,
            sizes: self.sizes.clone(),
        });
    }
}

fn row(t: &Tensor, place: u32) -> Option<Payload> {
    Some(t.slice_rows(place.into(), u64::from(place) + 1)?.data().clone())
}

#[cfg(test)]
mod tests {
    use grey_core::{DType, Dim, TensorSpec};

    use super::*;
    use crate::{
        batcher::{Buckets, Hold},
        madeup::floats32,
    };

    type Rows = Vec<Vec<f32>>;

    fn signature(rows: Dim, width: u64) -> Signature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DType::Fp32,
            shape: vec![rows.clone(), Dim::Fixed(width)],
        };
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
    }

    fn any_rows() -> Signature {
        signature(Dim::Symbol("N".into()), 3)
    }

    /// The result, and the rows of each run.
    fn run(mut test: SelfTest, mut model: impl FnMut(Rows) -> Result<Rows, String>) -> (SelfTestRecord, Vec<usize>) {
        let mut runs = Vec::new();
        for _ in 0..1000 {
            match test.step() {
                Step::Found(record) => return (record, runs),
                Step::Run(inputs) => {
                    let rows = inputs[0].rows().unwrap() as usize;
                    let flat: Vec<f32> = floats32(&inputs[0].data().to_contiguous()).collect();
                    runs.push(rows);
                    test.feed(model(flat.chunks(flat.len() / rows).map(<[f32]>::to_vec).collect()).map(|out| {
                        let data: Vec<u8> = out.iter().flatten().flat_map(|f| f.to_le_bytes()).collect();
                        let shape = vec![out.len() as u64, out.first().map_or(0, Vec::len) as u64];
                        vec![Tensor::new("y", DType::Fp32, shape, data).unwrap()]
                    }));
                }
            }
        }
        panic!("the self-test does not end");
    }

    fn rows(model: impl FnMut(Rows) -> Result<Rows, String>) -> SelfTestRecord {
        run(SelfTest::rows(any_rows(), vec![1, 2, 4, 8, 16], 42), model).0
    }

    /// A model that makes `f(value, place, rows)` of each value.
    fn by_place(f: impl Fn(f32, usize, usize) -> f32) -> impl Fn(Rows) -> Result<Rows, String> {
        move |rows| {
            let n = rows.len();
            Ok(rows.iter().enumerate().map(|(p, r)| r.iter().map(|v| f(*v, p, n)).collect()).collect())
        }
    }

    fn finds(record: &SelfTestRecord, found: Found, says: &str) {
        assert!(record.found == found && record.reason.contains(says), "{record:?}");
    }

    #[test]
    fn a_row_by_row_model_is_the_same_everywhere() {
        let r = rows(by_place(|v, _, _| v * 2.0 + 1.0));
        finds(&r, Found::Everywhere, "[1, 2, 4, 8, 16] rows");
        assert_eq!((r.zero_rows_refused, r.sizes), (false, vec![1, 2, 4, 8, 16]));
    }

    #[test]
    fn bytes_that_depend_on_the_place_bind_it() {
        finds(&rows(by_place(|v, p, _| if p == 5 { v + 1e-3 } else { v })), Found::Slot, "position 5 of a batch of 8");
        finds(&rows(by_place(|v, _, n| if n == 16 { v * 1.5 } else { v })), Found::Slot, "a batch of 16");
        finds(&rows(by_place(|v, _, n| if n == 1 { v * 1.5 } else { v })), Found::Slot, "a batch of 2");
        // The last row of an odd tail, as vector code has it.
        finds(&rows(by_place(|v, p, n| if p + 1 == n && n > 2 { v + 1e-3 } else { v })), Found::Slot, "position 3");
    }

    #[test]
    fn bytes_that_depend_on_other_rows_are_worse() {
        let cumulative = |rows: Rows| {
            let mut acc = [0.0; 3];
            let add = |r: &Vec<f32>| {
                acc.iter_mut().zip(r).for_each(|(a, v)| *a += v);
                acc.to_vec()
            };
            Ok(rows.iter().map(add).collect())
        };
        finds(&rows(cumulative), Found::Mixes, "changed with the rows beside it");
        let only_infinite = |rows: Rows| {
            let add = if rows.iter().flatten().any(|v| v.is_infinite()) { 1e-3 } else { 0.0 };
            Ok(rows.iter().map(|r| r.iter().map(|v| v + add).collect()).collect())
        };
        finds(&rows(only_infinite), Found::Mixes, "");
        // A scale of the whole batch, as dynamic quantisation has it.
        let scaled = |rows: Rows| {
            let most = rows.iter().flatten().fold(1e-9f32, |m, v| m.max(v.abs()));
            Ok(rows.iter().map(|r| r.iter().map(|v| (v / most * 127.0).round() * most).collect()).collect())
        };
        finds(&rows(scaled), Found::Mixes, "");
        let of_the_next = |rows: Rows| {
            let next = |p: usize| rows.get(p + 1).map_or(0.0, |r| r[0]);
            Ok(rows.iter().enumerate().map(|(p, r)| r.iter().map(|v| v + next(p)).collect()).collect())
        };
        finds(&rows(of_the_next), Found::Mixes, "");
    }

    #[test]
    fn chance_is_worst() {
        let noisy = |from: usize| {
            let mut random = SplitMix64::new(1);
            move |rows: Rows| -> Result<Rows, String> {
                let noise = if rows.len() < from { 0.0 } else { (random.next() % 1000) as f32 };
                Ok(rows.iter().map(|r| r.iter().map(|v| v + noise).collect()).collect())
            }
        };
        finds(&rows(noisy(1)), Found::Changes, "other bytes");
        finds(&rows(noisy(16)), Found::Changes, "the same batch gave other bytes");
        let whole = SelfTest::whole(signature(Dim::Fixed(2), 3), 1);
        finds(&run(whole, noisy(1)).0, Found::Changes, "the same run");
    }

    #[test]
    fn refused_fillings_do_not_count_and_the_zero_one_is_told() {
        let no_zeros = |rows: Rows| {
            if rows.iter().any(|r| r.iter().all(|v| *v == 0.0)) { Err("empty row".into()) } else { Ok(rows) }
        };
        let r = rows(no_zeros);
        finds(&r, Found::Everywhere, "");
        assert!(r.zero_rows_refused);
        let finite = |rows: Rows| {
            if rows.iter().flatten().all(|v| v.is_finite()) { Ok(rows) } else { Err("not finite".into()) }
        };
        let r = rows(finite);
        finds(&r, Found::Everywhere, "");
        assert!(!r.zero_rows_refused);
    }

    #[test]
    fn what_shows_nothing_is_no_pass() {
        finds(&rows(|_| Err("no".into())), Found::Nothing, "does not run on made-up input (no)");
        finds(&rows(by_place(|_, _, _| 1.0)), Found::Nothing, "the outputs of all rows are equal");
        finds(&rows(|rows| Ok(rows[..1].to_vec())), Found::Nothing, "for 2 rows");
        let one = |rows: Rows| if rows.len() > 1 { Err("one".into()) } else { Ok(rows) };
        finds(&rows(one), Found::Nothing, "with other rows beside a row");
        let fixed = run(SelfTest::rows(signature(Dim::Fixed(2), 3), vec![1, 2], 1), Ok).0;
        finds(&fixed, Found::Nothing, "is always 2");
    }

    #[test]
    fn a_size_that_does_not_run_is_not_passed() {
        let small = |rows: Rows| if rows.len() > 8 { Err("too many".into()) } else { Ok(rows) };
        finds(&rows(small), Found::Slot, "does not run with 16 rows (too many)");
        let wide = SelfTest::rows(signature(Dim::Any, 1 << 14), vec![1, 2, 4096], 1);
        finds(&run(wide, Ok).0, Found::Slot, "4096 rows is too large");
    }

    #[test]
    fn whole_runs_are_repeated() {
        let (r, runs) = run(SelfTest::whole(signature(Dim::Fixed(2), 3), 1), Ok);
        finds(&r, Found::Slot, "the same bytes");
        assert_eq!((runs, r.sizes), (vec![2, 2], vec![]));
        finds(&run(SelfTest::whole(any_rows(), 1), |_| Err("no".into())).0, Found::Nothing, "(no)");
    }

    #[test]
    fn sizes_are_those_of_runs_and_few() {
        let config = |max_batch_size, buckets| BatcherConfig {
            enabled: true,
            max_batch_size,
            hold: Hold::None,
            buckets,
            queue_rows_max: 100,
        };
        assert_eq!(sizes(&config(32, Buckets::PowersOfTwo)), [1, 2, 4, 8, 16, 32]);
        assert_eq!(sizes(&config(2, Buckets::PowersOfTwo)), [1, 2]);
        assert_eq!(sizes(&config(24, Buckets::MultipleOf(8))), [1, 2, 8, 16, 24]);
        let many = sizes(&config(65_536, Buckets::PowersOfTwo));
        assert_eq!((many.len(), &many[..2], many.last()), (SIZES_MAX, &[1, 2][..], Some(&65_536)));
        assert_eq!(sizes(&config(64, Buckets::MultipleOf(1))).len(), SIZES_MAX);
    }

    #[test]
    fn the_default_sizes_take_few_runs() {
        let (r, runs) = run(SelfTest::rows(any_rows(), vec![1, 2, 4, 8, 16, 32], 1), Ok);
        finds(&r, Found::Everywhere, "");
        assert!(runs.len() <= 70 && runs.iter().sum::<usize>() <= 600, "{} runs", runs.len());
    }
}

//! The trees of a training that was interrupted, as a file: what takes time, and what training goes on from.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `VITALSTR` |
//! | 4 | `u32` format version, [`VERSION`], little-endian |
//! | 32 | [`fingerprint`] of the training |
//! | … | trees of the head, then of the row forest, as in [`super::artifact`] |
//! | 32 | SHA-256 of everything before |

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::artifact::{MAX_BYTES, Numbers, put_trees};
use super::features::{HEAD, ROW};
use super::forest::{Forest, Tree};
use super::learn;
use super::training::{History, TrainOptions};

/// The format version that this program writes, and the only one that it reads.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"VITALSTR";
const HEADER: usize = 12 + SUM;
const SUM: usize = 32;

/// How many trees a training grows, at most.
pub const TREES: usize = learn::TREES;

/// What a training is of: another one has another fingerprint.
pub type Fingerprint = [u8; SUM];

/// Which forest a tree stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Head,
    Row,
}

/// The trees of both forests, as far as they are grown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grown {
    pub head: Vec<Tree>,
    pub row: Vec<Tree>,
}

/// What a training goes on from, and who is told of every tree, in the order in which they grow.
pub struct Growth<'a> {
    pub from: Grown,
    pub told: &'a mut dyn FnMut(Part, &Tree),
}

impl<'a> Growth<'a> {
    /// From the first tree on.
    pub fn anew(told: &'a mut dyn FnMut(Part, &Tree)) -> Growth<'a> {
        Growth { from: Grown::default(), told }
    }
}

/// Why trees can't be gone on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrownError {
    #[error("it is damaged")]
    Damaged,
    #[error("it is of another version of the program")]
    Version,
    #[error("it is of a training on other data, or with other options")]
    Other,
}

impl Grown {
    /// How many trees.
    pub fn trees(&self) -> usize {
        self.head.len() + self.row.len()
    }

    /// The next tree.
    pub fn push(&mut self, part: Part, tree: &Tree) {
        match part {
            Part::Head => self.head.push(tree.clone()),
            Part::Row => self.row.push(tree.clone()),
        }
    }

    /// As a file of the training with this fingerprint.
    pub fn to_bytes(&self, fingerprint: &Fingerprint) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(fingerprint);
        put_trees(&mut bytes, &self.head);
        put_trees(&mut bytes, &self.row);
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// From such a file.
    ///
    /// # Errors
    /// [`GrownError`] when the bytes are damaged, or of another training.
    pub fn from_bytes(bytes: &[u8], fingerprint: &Fingerprint) -> Result<Grown, GrownError> {
        if !bytes.starts_with(&MAGIC) || bytes.len() < HEADER + SUM || bytes.len() > MAX_BYTES {
            return Err(GrownError::Damaged);
        }
        if bytes[8..12] != VERSION.to_le_bytes() {
            return Err(GrownError::Version);
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM);
        if Sha256::digest(body).as_slice() != sum {
            return Err(GrownError::Damaged);
        }
        if &body[12..HEADER] != fingerprint {
            return Err(GrownError::Other);
        }
        let mut numbers = Numbers(&body[HEADER..]);
        let (head, row) = (numbers.trees(), numbers.trees());
        let sound = |trees: Option<Vec<Tree>>, inputs| {
            let forest = Forest { base: 0.0, trees: trees? };
            forest.is_sound(inputs).then_some(forest.trees)
        };
        let grown = sound(head, HEAD).zip(sound(row, ROW)).filter(|_| numbers.0.is_empty());
        grown.map(|(head, row)| Grown { head, row }).ok_or(GrownError::Damaged)
    }
}

/// The same for the same version of the program, histories and options; the number of threads makes no difference.
pub fn fingerprint(histories: &[History], options: &TrainOptions) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(options.seed.to_le_bytes());
    hash.update(options.alarms_per_device_day.to_le_bytes());
    for history in histories {
        hash.update((history.device_id.len() as u64).to_le_bytes());
        hash.update(&history.device_id);
        hash.update((history.readings.len() as u64).to_le_bytes());
        for reading in &history.readings {
            hash.update(reading.ts_ms.to_le_bytes());
            // What is absent is a NaN, of which there are many.
            let canonical = |value: &f64| if value.is_nan() { f64::NAN } else { *value };
            reading.vitals.iter().for_each(|value| hash.update(canonical(value).to_bits().to_le_bytes()));
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::bodies::{Fleet, HOUR};
    use crate::model::training::{train, train_on};

    #[test]
    fn an_interrupted_training_goes_on_to_the_same_model() {
        let histories = Fleet { devices: 200, interval_ms: HOUR, ..Fleet::default() }.histories();
        let options = TrainOptions::default();
        let whole = train(&histories, &options).unwrap();
        assert!(whole.card().trained_on.forests_learnt);
        let [head, row] = whole.forests();
        for known in [head.trees.len() - 1, head.trees.len() + 7] {
            let from = Grown {
                head: head.trees.iter().take(known).cloned().collect(),
                row: row.trees.iter().take(known.saturating_sub(head.trees.len())).cloned().collect(),
            };
            let mut seen = Grown::default();
            let mut told = |part, tree: &Tree| seen.push(part, tree);
            let resumed = train_on(&histories, &options, &mut Growth { from, told: &mut told }).unwrap();
            assert_eq!(resumed.to_bytes(), whole.to_bytes());
            assert_eq!(seen, Grown { head: head.trees.clone(), row: row.trees.clone() });
        }
    }

    #[test]
    fn trees_come_back_as_they_were_and_no_others_do() {
        let [head, row] = Model::builtin().forests().map(|forest| forest.trees.clone());
        let grown = Grown { head, row: row[..3].to_vec() };
        let (mine, other) = ([7; SUM], [8; SUM]);
        let bytes = grown.to_bytes(&mine);
        assert_eq!(Grown::from_bytes(&bytes, &mine), Ok(grown));
        assert_eq!(Grown::from_bytes(&bytes, &other), Err(GrownError::Other));
        for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Grown::from_bytes(&damaged, &mine), Err(GrownError::Damaged), "{at}");
            assert_eq!(Grown::from_bytes(&bytes[..at], &mine), Err(GrownError::Damaged), "{at}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Grown::from_bytes(&newer, &mine), Err(GrownError::Version));
        assert_eq!(Grown::from_bytes(&Grown::default().to_bytes(&mine), &mine), Ok(Grown::default()));
    }

    #[test]
    fn another_reading_seed_or_budget_is_another_training() {
        let histories = Fleet { devices: 3, interval_ms: HOUR, ..Fleet::default() }.histories();
        let options = TrainOptions::default();
        let mine = fingerprint(&histories, &options);
        assert_eq!(mine, fingerprint(&histories, &TrainOptions { threads: 7, ..options.clone() }));
        assert_ne!(mine, fingerprint(&histories, &TrainOptions { seed: 2, ..options.clone() }));
        assert_ne!(mine, fingerprint(&histories, &TrainOptions { alarms_per_device_day: 0.3, ..options.clone() }));
        assert_ne!(mine, fingerprint(&histories[..2], &options));
        let mut changed = histories;
        changed[1].readings[5].vitals[0] += 1.0;
        assert_ne!(mine, fingerprint(&changed, &options));
    }
}

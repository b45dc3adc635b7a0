//! Fuzz target of this room (see `src/fuzzing.rs`).

use std::time::Duration;

use super::Settings;
use super::journal;
use super::record::Record;
use super::schedule::Settled;
use super::volume::Volume;
use crate::clock::Moment;

const NOW: Moment = Moment::from_boot(Duration::from_secs(1_000_000));
const POLL: Duration = Duration::from_secs(120);

/// A journal file as it lies on the disk, and the record alone, which a checksum guards in the file.
pub fn journal(data: &[u8]) {
    if let Err(reason) = journal::parsed(data) {
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    for same_boot in [true, false] {
        if let Ok(record) = serde_json::from_slice::<Record>(data) {
            lived(record, same_boot);
        }
    }
}

/// A volume from a record goes through its whole life without breaking down, and is written as it is read.
fn lived(record: Record, same_boot: bool) {
    let mut volume = record.into_volume(same_boot, NOW);
    let Ok(written) = Record::of(&volume, true).encode() else {
        assert!(!same_boot, "a record can be written");
        return;
    };
    let read = serde_json::from_slice::<Record>(&written);
    assert!(read.is_ok(), "what is written can be read");
    if let Ok(read) = read {
        let again = Record::of(&read.into_volume(true, NOW), true).encode();
        assert!(
            again.is_ok_and(|again| *again == *written),
            "and is the same"
        );
    }
    volume.resume(POLL, POLL, NOW);
    let settings = Settings::default();
    for hours in [0, 1, 24, 24 * 366 * 100] {
        let now = NOW.plus(Duration::from_secs(hours * 3600));
        settled(&mut volume, now, &settings);
        volume.answered(now);
        settled(&mut volume, now, &settings);
    }
    volume.release(NOW);
    settled(&mut volume, Moment::NEVER, &settings);
    assert!(
        volume.grants.is_empty(),
        "a volume that has left keeps nothing"
    );
}

/// What is due is done, once; the next time is a later one.
fn settled(volume: &mut Volume, now: Moment, settings: &Settings) {
    let settled = volume.settle(1, now, settings);
    assert!(settled.wake.is_none_or(|wake| wake > now), "{settled:?}");
    assert!(
        settled
            .calls
            .iter()
            .all(|call| volume.wants(*call, settings, now))
    );
    let again = volume.settle(1, now, settings);
    let nothing = Settled {
        wake: settled.wake,
        ..Settled::default()
    };
    assert_eq!(again, nothing, "after {settled:?}");
}

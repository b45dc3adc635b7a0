//! Fuzz target of this room (see `src/fuzzing.rs`).

use std::time::Duration;

use super::journal;
use super::record::Record;
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
    for hours in [0, 1, 24, 24 * 366 * 100] {
        let now = NOW.plus(Duration::from_secs(hours * 3600));
        volume.expire(now);
        volume.unattended(POLL, now);
        volume.answered(now);
        volume.retire(Duration::from_secs(60), now);
        assert!(
            volume
                .agenda(1, POLL, POLL, POLL * 5)
                .iter()
                .all(|(task, _)| task.volume() == 1)
        );
    }
    volume.release(NOW);
    volume.expire(Moment::from_boot(Duration::MAX));
    assert!(
        volume.grants.is_empty(),
        "a volume that has left keeps nothing"
    );
}

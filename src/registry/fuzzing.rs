//! Fuzz target of this room (see `src/fuzzing.rs`).

use std::time::Duration;

use super::Settings;
use super::journal;
use super::record::{Body, Record};
use super::schedule::Settled;
use super::volume::Volume;
use crate::clock::Moment;

const NOW: Moment = Moment::from_boot(Duration::from_secs(1_000_000));
const POLL: Duration = Duration::from_secs(120);

/// A journal file as it lies on the disk, and what a checksum guards in it alone.
pub fn journal(data: &[u8]) {
    if let Err(reason) = journal::parsed_record(data) {
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    if let Err(reason) = journal::parsed_body(data) {
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    body(data);
    for same_boot in [true, false] {
        if let Ok(record) = serde_json::from_slice::<Record>(data) {
            lived(record, same_boot);
        }
    }
}

/// A body is written as it is read.
fn body(data: &[u8]) {
    let Ok(read) = Body::parse(data) else {
        return;
    };
    let grant = read.into_grant();
    let Ok(mut written) = Body::preface(&grant) else {
        return;
    };
    written.extend_from_slice(grant.body.expose());
    let again = Body::parse(&written);
    assert!(again.is_ok(), "what is written can be read");
    if let Ok(again) = again {
        let again = again.into_grant();
        let same = again.is_same(&grant) && again.keys == grant.keys;
        assert!(same && again.body == grant.body, "and is the same");
    }
}

/// A volume from a record goes through its whole life without breaking down, and is written as it is read.
fn lived(record: Record, same_boot: bool) {
    let mut volume = record.into_volume(same_boot, NOW, |key| {
        // Every other body is there.
        let text = format!("{{\"args\":\"{{}}\",\"keys\":null}}\n{{\"key\":{key}}}");
        Body::parse(text.as_bytes()).ok().filter(|_| key % 2 == 0)
    });
    let Ok(written) = Record::of(&volume).encode() else {
        assert!(!same_boot, "a record can be written");
        return;
    };
    let read = serde_json::from_slice::<Record>(&written);
    assert!(read.is_ok(), "what is written can be read");
    if let Ok(read) = read {
        let again = read.into_volume(true, NOW, |key| {
            let held = volume.grants.get(&key)?;
            let mut file = Body::preface(&held.grant).ok()?;
            file.extend_from_slice(held.grant.body.expose());
            Body::parse(&file).ok()
        });
        let again = Record::of(&again).encode();
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

//! What a journal at its size limit lets go of, and when it counts as full.

use std::time::Duration;

use super::journal::default_progress;
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn alice() -> Person {
    person("15550001", Some("77"))
}

#[tokio::test]
async fn size_takes_confirmed_history_first_and_nothing_else() {
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    for n in 0..1_000 {
        append(
            &session,
            inbound(&alice(), &format!("A{n}"), "some text", NOW),
        )
        .await;
    }
    let whole = workspace.journal().size().await.unwrap().bytes;
    let limited = |max_bytes| Retention {
        max_age: None,
        max_bytes: Some(max_bytes),
    };
    assert_eq!(
        workspace.enforce(&limited(whole)).await.unwrap(),
        Enforced::default()
    );
    // Nothing confirmed: nothing goes, and the caller has to stop the inflow.
    let full = workspace.enforce(&limited(whole / 2)).await.unwrap();
    assert_eq!((full.removed, full.over_limit), (0, true));
    default_progress(&workspace)
        .await
        .skip(&[1..=800])
        .await
        .unwrap();
    let enforced = workspace.enforce(&limited(whole / 2)).await.unwrap();
    assert!(!enforced.over_limit && enforced.lost.is_none());
    let size = workspace.journal().size().await.unwrap();
    assert!(size.bytes <= whole / 2 && size.bytes > whole / 100);
    assert!(size.oldest <= 801);
    let full = workspace.enforce(&limited(whole / 20)).await.unwrap();
    assert!(full.over_limit);
    let size = workspace.journal().size().await.unwrap();
    assert_eq!((size.oldest, size.events), (801, 200));
}

/// What is full stays so until nine tenths are left, or the limit that made it full is raised. What was
/// only looked at, and what age lets go in the same pass, was never full.
#[tokio::test]
async fn full_ends_with_what_made_it_so() {
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    for n in 0..1_000 {
        let text = inbound(&alice(), &format!("A{n}"), "some text", NOW);
        append(&session, text).await;
    }
    let whole = workspace.journal().size().await.unwrap().bytes;
    let limited = |max_bytes| Retention {
        max_age: None,
        max_bytes: Some(max_bytes),
    };
    let over_limit = async |retention: &Retention| {
        let enforced = workspace.enforce(retention).await.unwrap();
        assert_eq!(*workspace.full().borrow(), enforced.over_limit);
        enforced.over_limit
    };
    let tight = limited(whole - 1);
    assert!(over_limit(&tight).await);
    let little_room = limited(whole / 95 * 100);
    assert!(
        !over_limit(&little_room).await,
        "there is room, by a higher limit"
    );
    assert!(over_limit(&tight).await);
    assert!(!over_limit(&limited(whole * 2)).await);

    // A start looks before anything is trimmed, and confirmed history then goes to the target or as far
    // as it reaches: here to the limit and no further.
    workspace.look_for_room(&tight).await.unwrap();
    assert!(*workspace.full().borrow());
    default_progress(&workspace)
        .await
        .skip(&[1..=30])
        .await
        .unwrap();
    assert!(!over_limit(&tight).await, "it was only looked at");
    let size = workspace.journal().size().await.unwrap();
    assert!(size.bytes > whole / 100 * 90, "{size:?}");

    // Everything else is too old.
    let tight = limited(size.bytes - 1);
    assert!(over_limit(&tight).await);
    assert!(!over_limit(&limited(whole * 2)).await);
    world.clock.advance(DAY * 10);
    let aged = Retention {
        max_age: Some(DAY),
        ..tight
    };
    assert!(
        !over_limit(&aged).await,
        "age has made room in the same pass"
    );
}

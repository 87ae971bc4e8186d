//! Leases over calls, against a store in memory: they outlive their call, and a call that is cancelled
//! leaves no trace.

use std::pin::pin;
use std::task::Poll;

use super::*;

const NONE: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_mins(1);

fn some(events: u64) -> Credit {
    Credit {
        events,
        bytes: 1 << 20,
    }
}

impl World {
    async fn lease(&self, events: u64, wait: Duration) -> Result<Vec<Delivered>, LeaseError> {
        let leased = self
            .hub
            .lease(&self.workspace, &self.name, some(events), wait);
        tokio::time::timeout(LONG * 2, leased)
            .await
            .expect("a call that never answers")
    }

    async fn settle(&self, operation: Operation, leases: &[&Delivered]) -> Vec<Outcome> {
        let ack_ids: Vec<_> = leases.iter().map(|lease| lease.ack_id.clone()).collect();
        let operations = vec![(operation, ack_ids.clone())];
        let settled = self
            .hub
            .settle(&self.workspace, &self.name, operations)
            .await
            .unwrap();
        let outcome = |ack_id: &String| settled.get(ack_id.as_str()).copied();
        let outcomes = ack_ids.iter().map(outcome);
        outcomes
            .map(|outcome| outcome.unwrap_or(Outcome::Waiting))
            .collect()
    }
}

fn revisions(leases: &[Delivered]) -> Vec<u64> {
    leases.iter().map(|lease| lease.event.revision).collect()
}

#[tokio::test]
async fn leases_outlive_their_call_and_are_settled_by_another() {
    let world = World::new(3).await;
    let leases = world.lease(10, NONE).await.unwrap();
    assert_eq!(leases.len(), 3);
    assert!(world.lease(10, NONE).await.unwrap().is_empty());
    // Longer than a run without streams lasts.
    world.clock.advance(Duration::from_secs(50));
    let all: Vec<_> = leases.iter().collect();
    let extend = Operation::Extend { by: Some(LONG) };
    assert_eq!(
        world.settle(extend, &all).await,
        vec![Outcome::Confirmed; 3]
    );
    world.clock.advance(Duration::from_secs(50));
    assert_eq!(
        world.settle(Operation::Ack, &all).await,
        vec![Outcome::Confirmed; 3]
    );
    let subscriptions = world.workspace.subscriptions();
    let progress = subscriptions.progress(&world.name).await.unwrap();
    let floor = progress.confirmed().await.unwrap().floor();
    assert_eq!(floor, 4, "confirmed means durable");
    assert_eq!(
        world.settle(Operation::Ack, &all).await,
        vec![Outcome::Confirmed; 3],
        "and may be repeated"
    );
}

#[tokio::test]
async fn what_is_not_settled_comes_again_and_is_charged() {
    let world = World::new(2).await;
    let first = world.lease(10, NONE).await.unwrap();
    world.clock.advance(LONG);
    assert!(
        world.lease(10, NONE).await.unwrap().is_empty(),
        "the deadline has passed; a backoff follows"
    );
    world.clock.advance(LONG);
    let again = world.lease(10, NONE).await.unwrap();
    assert_eq!(revisions(&again).len(), 2);
    assert!(again.iter().all(|lease| lease.attempt == 2));
    let old: Vec<_> = first.iter().collect();
    assert_eq!(
        world.settle(Operation::Ack, &old).await,
        vec![Outcome::Ended; 2],
        "the first leases are fenced"
    );
    let nack = Operation::Nack { delay: Some(NONE) };
    let nacked: Vec<_> = again.iter().collect();
    assert_eq!(
        world.settle(nack, &nacked).await,
        vec![Outcome::Confirmed; 2]
    );
    let third = world.lease(10, NONE).await.unwrap();
    assert!(third.len() == 2 && third.iter().all(|lease| lease.attempt == 3));
}

#[tokio::test]
async fn a_call_waits_for_what_comes() {
    let world = World::new(0).await;
    let (leases, ()) = tokio::join!(world.lease(10, LONG), async {
        // Whether the call waits already or not makes no difference.
        tokio::task::yield_now().await;
        world.append(1).await;
    });
    assert_eq!(revisions(&leases.unwrap()), [1]);
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_moment_holds_nothing() {
    for steps in 0.. {
        let world = World::new(5).await;
        let done = {
            let mut call = pin!(world.hub.lease(
                &world.workspace,
                &world.name,
                some(10),
                Duration::from_secs(1)
            ));
            let mut done = false;
            for _ in 0..steps {
                done = futures::poll!(call.as_mut()).is_ready();
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
            done
        };
        if done {
            assert!(steps > 2, "never cancelled on its way: {steps} steps");
            return;
        }
        let leases = world.lease(10, LONG).await.unwrap();
        assert_eq!(leases.len(), 5, "cancelled after {steps} steps");
        assert!(leases.iter().all(|lease| lease.attempt == 1));
    }
}

#[tokio::test]
async fn an_ack_that_comes_early_waits_and_is_told_so() {
    let world = World::new(0).await;
    let event = || Change::Event(receipt(1));
    world.session.apply(vec![event(), event()]).await.unwrap();
    let leases = world.lease(10, NONE).await.unwrap();
    let early = world.settle(Operation::Ack, &[&leases[1]]).await;
    assert_eq!(early, [Outcome::Waiting]);
    let first = world.settle(Operation::Ack, &[&leases[0]]).await;
    assert_eq!(first, [Outcome::Confirmed]);
    let both = world
        .settle(Operation::Ack, &[&leases[1], &leases[0]])
        .await;
    assert_eq!(both, [Outcome::Confirmed, Outcome::Confirmed]);
}

#[tokio::test]
async fn calls_hold_half_of_the_window_and_streams_have_the_rest() {
    let mut world = World::new(100).await;
    world.hub = Hub::new(Arc::new(world.clock.clone()), 10);
    let mut held = world.lease(1_000, NONE).await.unwrap();
    assert_eq!(held.len(), 5);
    assert_eq!(
        world.lease(1_000, NONE).await.unwrap_err(),
        LeaseError::Full
    );
    let mut stream = world.open(MUCH).await;
    assert_eq!(leases(&mut stream, 5).await.len(), 5);
    stream.close();
    let one = held.remove(0);
    let confirmed = world.settle(Operation::Ack, &[&one]).await;
    assert_eq!(confirmed, [Outcome::Confirmed]);
    assert_eq!(world.lease(1_000, NONE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_waiting_call_ends_with_the_daemon_or_the_subscription() {
    let world = World::new(0).await;
    let (ended, ()) = tokio::join!(world.lease(1, LONG * 10), async {
        let mut waiting = pin!(world.hub.lease(&world.workspace, &world.name, MUCH, LONG));
        // At work, for sure: it opened its own after the other.
        assert!(matches!(futures::poll!(waiting.as_mut()), Poll::Pending));
        world.hub.shutdown(LONG).await;
    });
    assert_eq!(ended.unwrap_err(), LeaseError::Open(OpenError::Draining));
    assert_eq!(
        world.lease(1, NONE).await.unwrap_err(),
        LeaseError::Open(OpenError::Draining)
    );
}

#[tokio::test]
async fn a_run_that_ended_takes_late_acks_of_calls() {
    let mut world = World::new(3).await;
    let leases = world.lease(10, NONE).await.unwrap();
    // As after a crash: another run, which knows nothing of the leases.
    world.hub = Hub::new(Arc::new(world.clock.clone()), WINDOW);
    let late = world
        .settle(Operation::Ack, &[&leases[2], &leases[0]])
        .await;
    assert_eq!(late, [Outcome::Confirmed; 2]);
    let again = world.lease(10, NONE).await.unwrap();
    assert_eq!(revisions(&again), [leases[1].event.revision]);
    let nack = Operation::Nack { delay: None };
    let ended = world.settle(nack, &[&leases[1]]).await;
    assert_eq!(ended, [Outcome::Ended], "a lease dies with its run");
}

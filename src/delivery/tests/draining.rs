//! A daemon that stops: who holds leases may settle them, for a while, and nobody gets any more.

use super::*;

const LONG: Duration = Duration::from_mins(1);

fn one() -> Credit {
    Credit {
        events: 1,
        bytes: 1 << 20,
    }
}

impl World {
    /// A stream that has taken one event just now.
    async fn holder(&self) -> (Consumer, String) {
        let mut stream = self.open(one()).await;
        let mut held = String::new();
        take(&mut stream, |delivery| match delivery {
            Delivery::Leases(leases) => {
                held.clone_from(&leases[0].ack_id);
                true
            }
            _ => false,
        })
        .await;
        (stream, held)
    }

    async fn settle_by_call(&self, ack_id: &str) -> Result<Option<Outcome>, OpenError> {
        let operations = vec![(Operation::Ack, vec![ack_id.to_owned()])];
        let settling = self.hub.settle(&self.workspace, &self.name, operations);
        Ok(settling.await?.get(ack_id).copied())
    }

    /// A drain, once it has begun.
    async fn drain(&self) -> tokio::task::JoinHandle<()> {
        let hub = self.hub.clone();
        let drain = tokio::spawn(async move { hub.shutdown(LONG * 10).await });
        let refused = async {
            while let Ok(stream) = self.hub.open(&self.workspace, &self.name, one()).await {
                stream.close();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, refused)
            .await
            .expect("nothing is refused");
        drain
    }
}

async fn ends_with_draining(stream: &mut Consumer) {
    take(stream, |delivery| {
        matches!(delivery, Delivery::Stopped(Stopped::Draining))
    })
    .await;
}

async fn is_over(drain: tokio::task::JoinHandle<()>) {
    tokio::time::timeout(LONG, drain).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_held_may_be_settled_and_nothing_more_is_given_out() {
    let world = World::new(4).await;
    let (mut stream, held) = world.holder().await;
    let by_call = world
        .hub
        .lease(&world.workspace, &world.name, one(), Duration::ZERO);
    let by_call = by_call.await.unwrap();
    let mut idle = world.open(MUCH).await;
    // It has nothing left to take.
    let idle_holds = async {
        take(&mut idle, |delivery| match delivery {
            Delivery::Leases(leases) => leases.len() == 2,
            _ => false,
        })
        .await;
        idle.close();
    };
    idle_holds.await;

    let drain = world.drain().await;
    let refused = world
        .hub
        .lease(&world.workspace, &world.name, one(), Duration::ZERO);
    let refused = refused.await.unwrap_err();
    assert_eq!(refused, LeaseError::Open(OpenError::Draining));
    let settled = world.settle_by_call(&by_call[0].ack_id).await.unwrap();
    assert_eq!(settled, Some(Outcome::Confirmed));
    assert!(!drain.is_finished(), "the stream still holds something");

    let settler = stream.settler();
    settler
        .settle(Operation::Ack, vec![held.clone()])
        .await
        .unwrap();
    take(&mut stream, |delivery| match delivery {
        Delivery::Results(results) => {
            let told = |settled: &Settled| {
                *settled.ack_id == *held && settled.outcome == Outcome::Confirmed
            };
            results.iter().any(told)
        }
        Delivery::Leases(leases) => panic!("given out while it drains: {leases:?}"),
        _ => false,
    })
    .await;
    ends_with_draining(&mut stream).await;
    is_over(drain).await;
    let late = world.settle_by_call(&held).await;
    assert_eq!(late.unwrap_err(), OpenError::Draining);
}

#[tokio::test]
async fn who_settles_nothing_holds_nobody_up_for_long() {
    let world = World::new(1).await;
    let (mut stream, _) = world.holder().await;
    let drain = world.drain().await;
    assert!(!drain.is_finished());
    world.clock.advance(SETTLE);
    // Whatever is asked of it makes it look at the time.
    let told = world.settle_by_call("rubbish").await;
    assert!(matches!(told, Ok(_) | Err(OpenError::Draining)), "{told:?}");
    ends_with_draining(&mut stream).await;
    is_over(drain).await;
}

#[tokio::test]
async fn with_nothing_held_it_is_over_at_once() {
    let world = World::new(0).await;
    let mut idle = world.open(MUCH).await;
    world.hub.shutdown(LONG).await;
    ends_with_draining(&mut idle).await;
}

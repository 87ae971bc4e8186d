//! What was said before the client was linked.

use crate::world::{World, is_text};

/// More than the first chunk has: the rest comes from the media host.
const SAID: usize = 13;

#[tokio::test(flavor = "multi_thread")]
async fn old_conversations_come_as_history_and_none_as_a_message() {
    let world = World::new().await;
    for n in 0..SAID {
        let text = format!("old words no {n:03}");
        world
            .shop
            .send_text(&world.customer.phone(), &text)
            .unwrap();
    }
    let mut zapo = world.linked_zapo(&world.customer, "customer").await;
    for (kind, messages) in [("INITIAL_BOOTSTRAP", 10), ("RECENT", SAID - 10)] {
        let chunk = zapo.event("history", |event| event["type"] == kind).await;
        assert_eq!(chunk["chats"], 1, "{chunk}");
        assert_eq!(chunk["messages"], messages, "{chunk}");
    }
    world
        .shop
        .send_text(&world.customer.phone(), "new words")
        .unwrap();
    zapo.event("message", is_text("new words")).await;
    assert_eq!(zapo.count("message", |_| true), 1, "nothing old is new");
    world.assert_clean();
}

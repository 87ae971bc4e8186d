//! Receipts.

use wacore::types::events::Receipt;
use wacore::types::presence::ReceiptType;

use super::super::mappings::Mappings;
use super::person::person;
use super::time;
use crate::domain::event::{DedupKey, ReceiptKind};
use crate::domain::person::Person;
use crate::provider::contract::Arrival;

/// What a receipt says, `None` for those that are the protocol's own business.
fn kind(receipt: &ReceiptType) -> Option<ReceiptKind> {
    match receipt {
        ReceiptType::Delivered | ReceiptType::Inactive => Some(ReceiptKind::Delivered),
        ReceiptType::Read => Some(ReceiptKind::Read),
        ReceiptType::Played => Some(ReceiptKind::Played),
        ReceiptType::ReadSelf | ReceiptType::PlayedSelf => Some(ReceiptKind::ReadSelf),
        ReceiptType::Sent | ReceiptType::ServerError | ReceiptType::Other(_) => {
            Some(ReceiptKind::Other)
        }
        // Between own devices, or a request to the library to send again.
        ReceiptType::Sender
        | ReceiptType::Retry
        | ReceiptType::EncRekeyRetry
        | ReceiptType::PeerMsg
        | ReceiptType::HistorySync
        | _ => None,
    }
}

/// A receipt as an arrival. `own` is this account: what its other devices received or read says nothing
/// about the recipient.
pub(in super::super) fn receipt(
    receipt: &Receipt,
    own: &Person,
    mappings: &Mappings,
) -> Option<Arrival> {
    let mut kind = kind(&receipt.r#type)?;
    let source = &receipt.source;
    let from = person(&source.sender, source.sender_alt.as_ref(), mappings);
    let chat = if source.chat.is_same_chat_as(&source.sender) {
        from.clone()
    } else {
        person(&source.chat, None, mappings)
    };
    let is_own = own.aliases().any(|own| from.aliases().any(|it| it == own));
    if is_own {
        kind = match kind {
            ReceiptKind::Read | ReceiptKind::Played => ReceiptKind::ReadSelf,
            ReceiptKind::Delivered => ReceiptKind::Other,
            kind => kind,
        };
    }
    let name = match kind {
        ReceiptKind::Delivered => "delivered",
        ReceiptKind::Read => "read",
        ReceiptKind::Played => "played",
        ReceiptKind::ReadSelf => "read-self",
        ReceiptKind::Other => receipt.r#type.as_wire_str(),
    };
    let dedup = DedupKey {
        chat: chat.canonical().to_owned(),
        sender: from.canonical().to_owned(),
        stanza_id: receipt.message_ids.join(","),
        kind: format!("receipt/{name}"),
    };
    Some(Arrival::Receipt {
        chat,
        from,
        stanza_ids: receipt.message_ids.clone(),
        kind,
        at: time(receipt.timestamp),
        dedup,
    })
}

#[cfg(test)]
mod tests {
    use wacore::types::message::MessageSource;
    use wacore_binary::Jid;
    use whatsapp_rust::wacore::chrono::DateTime;

    use super::super::person::from_users;
    use super::*;

    fn convert(from: &str, r#type: ReceiptType) -> Option<(ReceiptKind, Person)> {
        let from: Jid = from.parse().unwrap();
        let library = Receipt::builder()
            .source(MessageSource {
                chat: from.to_non_ad(),
                sender: from,
                ..Default::default()
            })
            .message_ids(vec!["A".into(), "B".into()])
            .timestamp(DateTime::from_timestamp(1_700_000_000, 0).unwrap())
            .r#type(r#type)
            .offline(false)
            .build();
        let own = from_users(Some("15550000000"), Some("11"));
        match receipt(&library, &own, &Mappings::new(16))? {
            Arrival::Receipt {
                kind,
                from,
                stanza_ids,
                at,
                ..
            } => {
                assert_eq!(stanza_ids, ["A", "B"]);
                assert_eq!(at.secs(), 1_700_000_000);
                Some((kind, from))
            }
            Arrival::Event(_) => panic!("not a receipt"),
        }
    }

    #[test]
    fn kinds_are_told_apart_and_protocol_receipts_stay_inside() {
        let peer = "15551234567:2@s.whatsapp.net";
        for (library, ours) in [
            (ReceiptType::Delivered, Some(ReceiptKind::Delivered)),
            (ReceiptType::Inactive, Some(ReceiptKind::Delivered)),
            (ReceiptType::Read, Some(ReceiptKind::Read)),
            (ReceiptType::Played, Some(ReceiptKind::Played)),
            (ReceiptType::ReadSelf, Some(ReceiptKind::ReadSelf)),
            (ReceiptType::Other("odd".into()), Some(ReceiptKind::Other)),
            (ReceiptType::Sender, None),
            (ReceiptType::PeerMsg, None),
            (ReceiptType::HistorySync, None),
        ] {
            let got = convert(peer, library.clone()).map(|(kind, _)| kind);
            assert_eq!(got, ours, "{library:?}");
        }
    }

    #[test]
    fn what_our_own_devices_received_does_not_count_as_delivered() {
        let own = "15550000000:7@s.whatsapp.net";
        let kind = |t| convert(own, t).unwrap().0;
        assert_eq!(kind(ReceiptType::Delivered), ReceiptKind::Other);
        assert_eq!(kind(ReceiptType::Read), ReceiptKind::ReadSelf);
    }
}

//! JIDs into people, under every name known, and people back into addresses.

use wacore_binary::{Jid, Server};

use super::super::mappings::Mappings;
use crate::domain::person::Person;

const PN_SERVER: &str = "s.whatsapp.net";
const LID_SERVER: &str = "lid";

/// A person (or group) from a JID, the other address a stanza gave for it, and what is in memory.
pub(in super::super) fn person(jid: &Jid, alternate: Option<&Jid>, mappings: &Mappings) -> Person {
    let user = |wanted: fn(Server) -> bool| {
        [Some(jid), alternate]
            .into_iter()
            .flatten()
            .find(|jid| wanted(jid.server))
            .map(|jid| jid.user_base().to_owned())
    };
    let phone = user(Server::is_pn_family);
    let lid = user(Server::is_lid_family);
    let (phone, lid) = match (phone, lid) {
        (Some(phone), Some(lid)) => {
            mappings.learn(&lid, &phone);
            (Some(phone), Some(lid))
        }
        (Some(phone), None) => {
            let lid = mappings.lid_of(&phone);
            (Some(phone), lid)
        }
        (None, Some(lid)) => (mappings.phone_of(&lid), Some(lid)),
        (None, None) => {
            return Person {
                provider_id: Some(jid.to_non_ad_string()),
                ..Person::default()
            };
        }
    };
    from_users(phone.as_deref(), lid.as_deref())
}

/// A person from the user parts of the two kinds of address.
pub(in super::super) fn from_users(phone: Option<&str>, lid: Option<&str>) -> Person {
    let digits = phone.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    Person {
        phone: digits.map(|phone| format!("+{phone}")),
        pn_jid: phone.map(|phone| format!("{phone}@{PN_SERVER}")),
        lid: lid.map(|lid| format!("{lid}@{LID_SERVER}")),
        provider_id: None,
    }
}

/// Where to send to a person: the phone number if it is known (the library finds the LID itself and
/// decides, per account, which of them goes on the wire), else the LID, else a group.
pub(in super::super) fn address(person: &Person) -> Option<Jid> {
    let parse = |text: &str| text.parse::<Jid>().ok().filter(|jid| !jid.user.is_empty());
    if let Some(jid) = person.pn_jid.as_deref().and_then(parse) {
        return jid.is_pn().then(|| jid.into_non_ad());
    }
    if let Some(phone) = person.phone.as_deref() {
        let digits = phone.strip_prefix('+').unwrap_or(phone);
        let usable = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return usable.then(|| Jid::pn(digits));
    }
    if let Some(jid) = person.lid.as_deref().and_then(parse) {
        return jid.is_lid().then(|| jid.into_non_ad());
    }
    let jid = person.provider_id.as_deref().and_then(parse)?;
    (jid.is_pn() || jid.is_lid() || jid.server == Server::Group).then(|| jid.into_non_ad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        text.parse().unwrap()
    }

    #[test]
    fn a_stanza_with_both_addresses_gives_all_names_and_is_remembered() {
        let mappings = Mappings::new(16);
        let sender = jid("15551234567:3@s.whatsapp.net");
        let both = person(&sender, Some(&jid("77@lid")), &mappings);
        assert_eq!(both.phone.as_deref(), Some("+15551234567"));
        assert_eq!(both.pn_jid.as_deref(), Some("15551234567@s.whatsapp.net"));
        assert_eq!(both.lid.as_deref(), Some("77@lid"));
        assert_eq!(both.canonical(), "77@lid");
        assert_eq!(person(&jid("77:9@lid"), None, &mappings), both);
        assert_eq!(person(&sender, None, &mappings), both);
    }

    #[test]
    fn a_group_keeps_the_providers_id() {
        let group = person(&jid("120363@g.us"), None, &Mappings::new(16));
        assert_eq!(group.provider_id.as_deref(), Some("120363@g.us"));
        assert_eq!(group.canonical(), "120363@g.us");
    }

    #[test]
    fn addresses_prefer_the_number_and_refuse_what_cannot_be_addressed() {
        let number = Person {
            phone: Some("+15551234567".into()),
            lid: Some("77@lid".into()),
            ..Person::default()
        };
        assert_eq!(
            address(&number).unwrap().to_string(),
            "15551234567@s.whatsapp.net"
        );
        let lid = Person {
            lid: Some("77@lid".into()),
            ..Person::default()
        };
        assert_eq!(address(&lid).unwrap().to_string(), "77@lid");
        let group = Person {
            provider_id: Some("120363@g.us".into()),
            ..Person::default()
        };
        assert_eq!(address(&group).unwrap().to_string(), "120363@g.us");
        for nobody in [
            Person::default(),
            Person {
                phone: Some("+".into()),
                ..Person::default()
            },
            Person {
                provider_id: Some("status@broadcast".into()),
                ..Person::default()
            },
        ] {
            assert_eq!(address(&nobody), None, "{nobody:?}");
        }
    }
}

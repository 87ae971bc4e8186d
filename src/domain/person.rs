//! Who a message is from or to, under every name we know.

use serde::{Deserialize, Serialize};

/// A person (or group) as WhatsApp addresses them. All known forms are carried, because the same
/// conversation arrives under a phone-number JID and under a LID; none is ever "validated", since an
/// id that came from the provider exists by definition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Person {
    /// E.164 with the leading `+`, when the phone number is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Phone-number JID without device (`15551234567@s.whatsapp.net`), when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pn_jid: Option<String>,
    /// LID JID without device (`1234@lid`), when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lid: Option<String>,
    /// The id exactly as the provider gave it (a group JID, a broadcast, a cloud id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
}

impl Person {
    /// The form used for deduplication and ordering: LID once known, else the phone-number JID, else
    /// the provider's id.
    pub fn canonical(&self) -> &str {
        self.lid
            .as_deref()
            .or(self.pn_jid.as_deref())
            .or(self.provider_id.as_deref())
            .or(self.phone.as_deref())
            .unwrap_or("")
    }

    /// Whether this is somebody, rather than a group, a channel or a list, which only have a provider's
    /// id.
    pub fn is_individual(&self) -> bool {
        self.phone.is_some() || self.pn_jid.is_some() || self.lid.is_some()
    }

    /// Whether this is certainly somebody else: a name that both have differs, and none is shared. People
    /// without a kind of name in common may be the same.
    pub fn differs_from(&self, other: &Self) -> bool {
        let names = [
            (&self.phone, &other.phone),
            (&self.pn_jid, &other.pn_jid),
            (&self.lid, &other.lid),
            (&self.provider_id, &other.provider_id),
        ];
        let mut known = names
            .iter()
            .filter_map(|(ours, theirs)| Some((ours.as_ref()?, theirs.as_ref()?)))
            .peekable();
        known.peek().is_some() && known.all(|(ours, theirs)| ours != theirs)
    }

    /// Every known name, canonical first; used to find the same person again. The phone number belongs to
    /// it: who is written to by number has no other name.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        [
            self.lid.as_deref(),
            self.pn_jid.as_deref(),
            self.provider_id.as_deref(),
            self.phone.as_deref(),
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_written_to_by_number_is_who_wrote() {
        let typed = Person {
            phone: Some("+15551234567".into()),
            ..Person::default()
        };
        let wrote = Person {
            phone: Some("+15551234567".into()),
            pn_jid: Some("15551234567@s.whatsapp.net".into()),
            lid: Some("77@lid".into()),
            ..Person::default()
        };
        assert!(
            typed
                .aliases()
                .any(|typed| wrote.aliases().any(|name| name == typed))
        );
        assert_eq!(wrote.aliases().next(), Some(wrote.canonical()));
    }

    #[test]
    fn the_lid_wins_once_it_is_known() {
        let mut person = Person {
            pn_jid: Some("15551234567@s.whatsapp.net".into()),
            ..Person::default()
        };
        assert_eq!(person.canonical(), "15551234567@s.whatsapp.net");
        person.lid = Some("77@lid".into());
        assert_eq!(person.canonical(), "77@lid");
    }

    #[test]
    fn only_names_of_one_kind_tell_people_apart() {
        let person = |phone: Option<&str>, lid: Option<&str>| Person {
            phone: phone.map(Into::into),
            lid: lid.map(Into::into),
            ..Person::default()
        };
        let ada = person(Some("+1"), Some("7@lid"));
        assert!(!ada.differs_from(&ada));
        assert!(ada.differs_from(&person(Some("+2"), Some("8@lid"))));
        assert!(ada.differs_from(&person(Some("+2"), None)));
        // A number that moved to another account, or an account to another number: the same line.
        assert!(!ada.differs_from(&person(Some("+2"), Some("7@lid"))));
        assert!(!person(Some("+1"), None).differs_from(&person(None, Some("8@lid"))));
        assert!(!ada.differs_from(&Person::default()));
    }
}

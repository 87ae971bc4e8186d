//! People as stored.

use prost::Message;

use crate::domain::person::Person;

/// [`Person`] as stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PersonRow {
    #[prost(string, optional, tag = "1")]
    phone: Option<String>,
    #[prost(string, optional, tag = "2")]
    pn_jid: Option<String>,
    #[prost(string, optional, tag = "3")]
    lid: Option<String>,
    #[prost(string, optional, tag = "4")]
    provider_id: Option<String>,
}

impl From<&Person> for PersonRow {
    fn from(person: &Person) -> Self {
        Self {
            phone: person.phone.clone(),
            pn_jid: person.pn_jid.clone(),
            lid: person.lid.clone(),
            provider_id: person.provider_id.clone(),
        }
    }
}

impl From<PersonRow> for Person {
    fn from(row: PersonRow) -> Self {
        Self {
            phone: row.phone,
            pn_jid: row.pn_jid,
            lid: row.lid,
            provider_id: row.provider_id,
        }
    }
}

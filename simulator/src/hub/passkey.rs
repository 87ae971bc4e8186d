//! Accounts that demand a passkey before they let a device in.
//!
//! The server asks the client that is to be linked (`passkey_prologue_request`) for a `WebAuthn`
//! assertion by the account's passkey. What follows a good assertion is not simulated: there is no
//! authenticator here to make or check one. Stanzas as `whatsapp_rust::passkey` reads them.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand::Rng as _;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::connection::ConnectionId;
use crate::directory::AccountId;
use crate::ledger::Fact;
use crate::wire;

/// The query for the options, and the node that carries them.
pub(super) const OPTIONS: &str = "passkey_request_options";
const NOTIFICATION: &str = "passkey_prologue_request";

impl Hub {
    /// Whether this account demands a passkey.
    pub(super) fn demands_passkey(&self, account: AccountId) -> bool {
        self.people[account.0].passkey
    }

    pub(crate) fn set_passkey(&mut self, account: AccountId, demanded: bool) {
        self.people[account.0].passkey = demanded;
    }

    /// Asks the client for the account's passkey.
    pub(super) fn demand_passkey(&mut self, id: ConnectionId, account: AccountId) {
        let fact = Fact::PasskeyDemanded {
            connection: id.0,
            phone: self.directory.account(account).pn.clone(),
        };
        self.record(fact);
        let options = self.passkey_options();
        let node = NodeBuilder::new("notification")
            .attr("from", wire::server())
            .attr("type", NOTIFICATION)
            .attr("id", self.stanza_id())
            .attr("t", self.now())
            .children([wire::leaf(OPTIONS, options)])
            .build();
        self.transmit(id, node);
    }

    /// A client that wants the options again.
    pub(super) fn on_passkey_options(&mut self, id: ConnectionId, stanza: &str) {
        let options = wire::leaf(OPTIONS, self.passkey_options());
        self.transmit(id, wire::iq_result(stanza, [options]));
    }

    /// A `PublicKeyCredentialRequestOptions` as JSON, with a fresh challenge.
    fn passkey_options(&mut self) -> Vec<u8> {
        let mut challenge = [0; 32];
        self.rng.fill_bytes(&mut challenge);
        serde_json::json!({
            "challenge": BASE64_URL_SAFE_NO_PAD.encode(challenge),
            "rpId": "web.whatsapp.com",
            "allowCredentials": [],
            "userVerification": "required",
            "timeout": 60_000,
        })
        .to_string()
        .into_bytes()
    }
}

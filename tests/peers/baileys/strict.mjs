// Makes Baileys check signatures.
//
// Baileys' own `Curve.verify` calls libsignal and ignores the boolean it returns, and libsignal
// skips the check altogether for prekey bundles (its fourth argument). Any 64 bytes pass as a
// signature then, and a client that "connects" has proved nothing about the server. Here
// libsignal's boolean decides everywhere. libsignal is CommonJS and Baileys copies its functions
// when it is first loaded, so this has to happen before Baileys is imported, which is why Baileys
// is only to be had from here.

import { createRequire } from 'node:module'

import { rootKey } from '../lines.mjs'

const require = createRequire(import.meta.url)
const curve = require('libsignal/src/curve.js')

const libsignalVerify = curve.verifySignature

/** Whether `signature` is `publicKey`'s over `message`; malformed input is a plain no. */
const verifies = (publicKey, message, signature) => {
	try {
		return libsignalVerify(publicKey, message, signature, false) === true
	} catch {
		return false
	}
}

curve.verifySignature = (publicKey, message, signature) => {
	if (!verifies(publicKey, message, signature)) {
		throw new Error('signature does not verify')
	}
	return true
}

/** Baileys, with nothing left that accepts a forged signature. */
export const baileys = await import('baileys')

baileys.Curve.verify = (publicKey, message, signature) =>
	verifies(baileys.generateSignalPubKey(publicKey), message, signature)

/** Replaces the root that certificate chains of a server must lead to. */
export const trustRoot = rootKeyHex => {
	baileys.WA_CERT_DETAILS.PUBLIC_KEY = rootKey(rootKeyHex)
}

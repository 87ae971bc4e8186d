// A pass of the Baileys peer means something only if a forged signature makes it fail. These tests
// forge each kind that a server could get wrong and expect a refusal.

import assert from 'node:assert/strict'
import net from 'node:net'
import test from 'node:test'

import { stayOnLoopback } from '../loopback.mjs'
import { baileys, trustRoot } from './strict.mjs'

const { Curve, DEFAULT_CONNECTION_CONFIG, addTransactionCapability, aesEncryptGCM, generateSignalPubKey, hkdf, initAuthCreds, makeNoiseHandler, proto, sha256 } =
	baileys

const quiet = { level: 'silent', child: () => quiet, trace() {}, debug() {}, info() {}, warn() {}, error() {} }

const flipped = signature => {
	const forged = Buffer.from(signature)
	forged[10] ^= 1
	return forged
}

test('a signature decides', () => {
	const signer = Curve.generateKeyPair()
	const message = Buffer.from('a device list')
	const signature = Curve.sign(signer.private, message)

	assert.equal(Curve.verify(signer.public, message, signature), true)
	assert.equal(Curve.verify(generateSignalPubKey(signer.public), message, signature), true)

	assert.equal(Curve.verify(signer.public, message, flipped(signature)), false)
	assert.equal(Curve.verify(signer.public, message, Buffer.alloc(64)), false)
	assert.equal(Curve.verify(signer.public, message, signature.subarray(0, 63)), false)
	assert.equal(Curve.verify(signer.public, Buffer.from('another'), signature), false)
	assert.equal(Curve.verify(Curve.generateKeyPair().public, message, signature), false)
})

/** Opens a session with a prekey bundle whose signed prekey carries what `sign` makes of it. */
const openSession = async sign => {
	const stored = {}
	const store = {
		get: async (type, ids) => Object.fromEntries(ids.map(id => [id, stored[`${type}/${id}`]])),
		set: async data => {
			for (const [type, entries] of Object.entries(data)) {
				for (const [id, value] of Object.entries(entries)) {
					stored[`${type}/${id}`] = value
				}
			}
		}
	}
	const keys = addTransactionCapability(store, quiet, DEFAULT_CONNECTION_CONFIG.transactionOpts)
	const repository = DEFAULT_CONNECTION_CONFIG.makeSignalRepository({ creds: initAuthCreds(), keys }, quiet, async () => [])
	const identity = Curve.generateKeyPair()
	const signedPreKey = generateSignalPubKey(Curve.generateKeyPair().public)
	await repository.injectE2ESession({
		jid: '15550001111:3@s.whatsapp.net',
		session: {
			registrationId: 7,
			identityKey: generateSignalPubKey(identity.public),
			signedPreKey: { keyId: 1, publicKey: signedPreKey, signature: sign(Curve.sign(identity.private, signedPreKey)) },
			preKey: { keyId: 9, publicKey: generateSignalPubKey(Curve.generateKeyPair().public) }
		}
	})
}

test('a prekey bundle with a forged signature opens no session', async () => {
	await openSession(signature => signature)
	await assert.rejects(openSession(flipped), /signature does not verify/)
	await assert.rejects(openSession(() => Buffer.alloc(64)), /signature does not verify/)
})

const HEADER = Buffer.from([87, 65, 6, 3])

/** A certificate: details and the signature of whoever issued it. */
const certificate = (issuer, details) => {
	const encoded = proto.CertChain.NoiseCertificate.Details.encode(details).finish()
	return { details: encoded, signature: Curve.sign(issuer.private, encoded) }
}

/** A chain root → intermediate → leaf, as a server would send it. */
const chain = (root, serverStatic) => {
	const intermediate = Curve.generateKeyPair()
	return {
		intermediate: certificate(root, { serial: 1, issuerSerial: 0, key: intermediate.public }),
		leaf: certificate(intermediate, { serial: 2, issuerSerial: 1, key: serverStatic.public })
	}
}

/** Runs the client's half of Noise XX against a server that presents what `present` makes. */
const handshake = present => {
	const client = Curve.generateKeyPair()
	const serverStatic = Curve.generateKeyPair()
	const serverEphemeral = Curve.generateKeyPair()

	let hash = Buffer.from('Noise_XX_25519_AESGCM_SHA256\0\0\0\0')
	let salt = hash
	let key = hash
	const authenticate = data => (hash = sha256(Buffer.concat([hash, data])))
	const mix = shared => {
		const okm = hkdf(shared, 64, { salt, info: '' })
		salt = okm.subarray(0, 32)
		key = okm.subarray(32)
	}
	// Each key is used once here, so the counter stays at zero.
	const encrypt = data => {
		const sealed = aesEncryptGCM(data, key, Buffer.alloc(12), hash)
		authenticate(sealed)
		return sealed
	}

	authenticate(HEADER)
	authenticate(client.public)
	authenticate(serverEphemeral.public)
	mix(Curve.sharedKey(serverEphemeral.private, client.public))
	const sealedStatic = encrypt(serverStatic.public)
	mix(Curve.sharedKey(serverStatic.private, client.public))
	const payload = encrypt(proto.CertChain.encode(present(serverStatic)).finish())

	const noise = makeNoiseHandler({ keyPair: client, NOISE_HEADER: HEADER, logger: quiet })
	noise.processHandshake(
		{ serverHello: { ephemeral: serverEphemeral.public, static: sealedStatic, payload } },
		Curve.generateKeyPair()
	)
}

test('only a chain that is really signed under the trusted root passes the handshake', () => {
	const root = Curve.generateKeyPair()
	trustRoot(root.public.toString('hex'))

	handshake(serverStatic => chain(root, serverStatic))

	assert.throws(() => handshake(serverStatic => chain(Curve.generateKeyPair(), serverStatic)), /intermediate certificate signature/)
	assert.throws(() => {
		handshake(serverStatic => {
			const forged = chain(root, serverStatic)
			forged.leaf.signature = flipped(forged.leaf.signature)
			return forged
		})
	}, /certificate signature invalid/)
	assert.throws(() => {
		handshake(serverStatic => {
			const forged = chain(root, serverStatic)
			forged.intermediate.signature = Buffer.alloc(64)
			return forged
		})
	}, /intermediate certificate signature/)
})

test('a root that is no key is refused by name', () => {
	assert.throws(() => trustRoot('beef'), /rootKeyHex: expected 32 bytes in hex/)
	assert.throws(() => trustRoot(undefined), /rootKeyHex/)
})

test('nothing beyond loopback is dialled', async () => {
	stayOnLoopback()
	for (const host of ['192.0.2.1', 'web.whatsapp.com', '128.0.0.1']) {
		assert.throws(() => net.connect(443, host), /peers stay on loopback/)
		assert.throws(() => net.connect({ port: 443, host }), /peers stay on loopback/)
	}
	await assert.rejects(fetch('https://192.0.2.1/'), error => /peers stay on loopback/.test(error.cause?.message ?? error.message))

	const server = net.createServer(socket => socket.end())
	await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
	await new Promise((resolve, reject) => net.connect(server.address().port, '127.0.0.1').on('connect', resolve).on('error', reject))
	server.close()
})

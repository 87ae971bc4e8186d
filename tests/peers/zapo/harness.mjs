// A zapo-js client behind the line protocol of ../README.md.

import { digest, emit, report, reserveStdout, rootKey, serve } from '../lines.mjs'

reserveStdout()

const { stayOnLoopback } = await import('../loopback.mjs')
stayOnLoopback()
const { WebSocket } = await import('ws')
// Node 22 brings its own; before that zapo-js finds none.
globalThis.WebSocket ??= WebSocket
const { PinoLogger, WaClient, createStore, proto } = await import('zapo-js')
const { default: pino } = await import('pino')
const { credentialsIn } = await import('./credentials.mjs')

const level = process.env.PEER_LOG ?? 'warn'
const logger = new PinoLogger(pino({ level }, pino.destination(2)), level)

/** WhatsApp's own root has this serial; only the key is another. */
const ROOT_SERIAL = 0

let client
/** Between `<success>` and the end of the connection. */
let online = false

const identity = () => {
	const credentials = client?.getCredentials()
	return credentials?.meJid ? { id: credentials.meJid, lid: credentials.meLid ?? null } : null
}

const textOf = message => message?.conversation ?? message?.extendedTextMessage?.text

const keyOf = ({ chatJid, senderJid, stanzaId }, fromMe) => ({ remoteJid: chatJid, id: stanzaId, fromMe, participant: senderJid })

const onImage = async (key, { url, directPath, mediaKey, fileSha256, fileEncSha256, caption }) => {
	const data = await client.mediaTransfer.downloadAndDecrypt({ mediaType: 'image', url, directPath, mediaKey, fileSha256, fileEncSha256 })
	emit('image', { key, caption: caption ?? '', ...digest(data) })
}

const onMessage = event => {
	if (event.message?.imageMessage) {
		onImage(keyOf(event, false), event.message.imageMessage).catch(report)
		return
	}
	const text = textOf(event.message)
	if (text === undefined || text === null) {
		return
	}
	const { attrs } = event.rawNode
	// Copies of what other devices of this account sent name the chat in `recipient`.
	const fromMe = attrs.recipient !== undefined
	const key = fromMe ? keyOf({ ...event, chatJid: attrs.recipient }, true) : keyOf(event, false)
	emit('message', { key, text, pushName: attrs.notify ?? null, upsert: attrs.offline === undefined ? 'notify' : 'append' })
}

const STATUS = { delivery: 'DELIVERY_ACK', inactive: 'DELIVERY_ACK', read: 'READ', 'read-self': 'READ', played: 'PLAYED' }

const onReceipt = ({ rawNode, chatJid, stanzaId }) => {
	const status = STATUS[rawNode.attrs.type ?? 'delivery']
	if (status === undefined) {
		return
	}
	const list = Array.isArray(rawNode.content) ? rawNode.content.find(({ tag }) => tag === 'list') : undefined
	const listed = Array.isArray(list?.content) ? list.content.map(({ attrs }) => attrs.id) : []
	for (const id of new Set([stanzaId, ...listed])) {
		const by = rawNode.attrs.participant
		emit('status', { key: { remoteJid: chatJid, id, fromMe: true }, status, ...(by && { by }) })
	}
}

const onCall = ({ rawNode }) => {
	const [action] = Array.isArray(rawNode.content) ? rawNode.content : []
	if (action) {
		const from = action.attrs.caller_pn
		emit('call', { id: action.attrs['call-id'], status: action.tag, ...(from && { from }) })
	}
}

const open = async ({ wsUrl, rootKeyHex, authDir, reconnects }) => {
	const publicKey = new Uint8Array(rootKey(rootKeyHex))
	client = new WaClient(
		{
			store: createStore({ backends: { files: credentialsIn(authDir) }, providers: { auth: 'files' } }),
			sessionId: 'peer',
			chatSocketUrls: [wsUrl],
			reconnectIntervalMs: 200,
			connectTimeoutMs: 30_000,
			maxReconnectAttempts: reconnects,
			history: { enabled: true },
			testHooks: { noiseRootCa: { publicKey, serial: ROOT_SERIAL } }
		},
		logger
	)
	client.on('auth_qr', ({ qr }) => emit('qr', { payload: qr }))
	client.on('connection_success', () => {
		online = true
		emit('open', { me: identity() })
	})
	client.on('connection', ({ status, reason, code }) => {
		if (status === 'close') {
			online = false
			emit('close', { code, message: reason, restarts: false })
		}
	})
	client.on('message', onMessage)
	client.on('message_receipt', onReceipt)
	client.on('call', onCall)
	client.on('history_sync_chunk', ({ syncType, conversationsCount, messagesCount }) =>
		emit('history', { type: proto.HistorySync.HistorySyncType[syncType], chats: conversationsCount, messages: messagesCount })
	)
	client.on('offline_resume', ({ status }) => {
		if (status === 'complete') {
			emit('synced')
		}
	})
	client.on('client_error', ({ error }) => report(error))
	await client.connect()
}

const connected = () => {
	if (!online) {
		throw new Error('not connected')
	}
	return client
}

const commands = {
	async start(target) {
		if (client !== undefined) {
			throw new Error('already started')
		}
		await open(target)
		return {}
	},
	async requestCode({ phone }) {
		return { code: await client.requestPairingCode(phone) }
	},
	async sendText({ jid, text }) {
		const { id } = await connected().sendMessage(jid, text)
		return { key: { remoteJid: jid, id, fromMe: true } }
	},
	async sendImage({ jid, data, caption }) {
		const { id } = await connected().sendMessage(jid, { type: 'image', media: Buffer.from(data, 'base64'), mimetype: 'image/jpeg', caption })
		return { key: { remoteJid: jid, id, fromMe: true } }
	},
	async read({ keys }) {
		for (const { remoteJid, id, participant } of keys) {
			const inGroup = remoteJid.endsWith('@g.us')
			await connected().sendReceipt({ to: remoteJid, id, type: 'read', ...(inGroup && { participant }) })
		}
		return {}
	},
	async pause() {
		online = false
		await client.disconnect()
		return {}
	},
	async resume() {
		await client.connect()
		return {}
	},
	async status() {
		return { connection: online ? 'open' : 'closed', me: identity() }
	},
	async logout() {
		await connected().logout()
		return {}
	},
	async stop() {
		await client?.disconnect()
		return {}
	}
}

serve(commands)

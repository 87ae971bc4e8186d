// A Baileys client behind the line protocol of ../README.md.

import { digest, emit, report, reserveStdout, serve } from '../lines.mjs'

reserveStdout()

const { stayOnLoopback } = await import('../loopback.mjs')
stayOnLoopback()
const { baileys, trustRoot } = await import('./strict.mjs')
const { default: pino } = await import('pino')

const { makeWASocket, useMultiFileAuthState, DisconnectReason, proto, extractMessageContent, downloadMediaMessage } = baileys

const logger = pino({ level: process.env.PEER_LOG ?? 'warn' }, pino.destination(2))

// Fixed, so that nothing asks the network for the newest one.
const VERSION = [2, 3000, 1043857760]

/** What `start` was given, kept for the reconnect after pairing. */
let target
let socket
let connection = 'none'
/** Resolves when everything that was to be saved is on disk. */
let saved = Promise.resolve()

const open = async () => {
	const { state, saveCreds } = await useMultiFileAuthState(target.authDir)
	const sock = makeWASocket({
		auth: state,
		version: VERSION,
		waWebSocketUrl: target.wsUrl,
		logger,
		getMessage: async () => undefined
	})
	socket = sock
	connection = 'connecting'

	sock.ev.on('creds.update', update => {
		saved = saved.then(saveCreds).catch(report)
		if (update.accountSyncCounter) {
			emit('synced')
		}
	})
	sock.ev.on('connection.update', update => onConnection(sock, update))
	sock.ev.on('messages.upsert', ({ messages, type }) => messages.forEach(m => onMessage(m, type)))
	sock.ev.on('messages.update', updates => updates.forEach(onStatus))
	sock.ev.on('message-receipt.update', updates => updates.forEach(onMemberReceipt))
	sock.ev.on('call', calls => calls.forEach(({ id, status, callerPn }) => emit('call', { id, status, ...(callerPn && { from: callerPn }) })))
	sock.ev.on('messaging-history.set', ({ syncType, chats, messages }) =>
		emit('history', {
			type: proto.HistorySync.HistorySyncType[syncType],
			chats: chats.length,
			messages: messages.length,
			names: chats.map(({ name }) => name).filter(Boolean),
			texts: messages.map(({ key, message }) => ({ key, text: textOf(message) }))
		})
	)
}

const onConnection = (sock, { connection: now, qr, lastDisconnect }) => {
	if (sock !== socket) {
		return
	}
	if (qr) {
		emit('qr', { payload: qr })
	}
	if (now === 'open') {
		connection = 'open'
		emit('open', { me: identity() })
	}
	if (now === 'close') {
		connection = 'closed'
		const error = lastDisconnect?.error
		const code = error?.output?.statusCode ?? null
		const restarts = code === DisconnectReason.restartRequired
		emit('close', { code, message: error?.message ?? '', restarts })
		if (restarts) {
			saved.then(open).catch(report)
		}
	}
}

const textOf = message => {
	const content = extractMessageContent(message)
	return content?.conversation ?? content?.extendedTextMessage?.text
}

const onMessage = (message, upsert) => {
	const content = extractMessageContent(message.message)
	const text = textOf(message.message)
	if (text !== undefined && text !== null) {
		emit('message', { key: message.key, text, pushName: message.pushName ?? null, upsert })
	}
	if (content?.imageMessage) {
		onImage(message, content.imageMessage).catch(report)
	}
	// A status that comes while events are buffered is folded into the message itself.
	onStatus({ key: message.key, update: message })
}

const onImage = async (message, { caption }) => emit('image', { key: message.key, caption: caption ?? '', ...digest(await downloadMediaMessage(message, 'buffer', {})) })

const onStatus = ({ key, update }) => {
	if (update.status !== undefined && update.status !== null) {
		emit('status', { key, status: proto.WebMessageInfo.Status[update.status] })
	}
}

// In a group each member's receipt is reported by itself.
const onMemberReceipt = ({ key, receipt }) => {
	emit('status', { key, status: receipt.readTimestamp ? 'READ' : 'DELIVERY_ACK', by: receipt.userJid })
}

const identity = () => {
	const me = socket?.user
	return me ? { id: me.id, lid: me.lid ?? null } : null
}

const connected = () => {
	if (connection !== 'open') {
		throw new Error(`not connected: ${connection}`)
	}
	return socket
}

const commands = {
	async start({ wsUrl, rootKeyHex, authDir }) {
		if (connection !== 'none' && connection !== 'closed') {
			throw new Error(`already started: ${connection}`)
		}
		trustRoot(rootKeyHex)
		target = { wsUrl, authDir }
		await open()
		return {}
	},
	async requestCode({ phone }) {
		return { code: await socket.requestPairingCode(phone) }
	},
	async sendText({ jid, text }) {
		const sent = await connected().sendMessage(jid, { text })
		return { key: sent.key }
	},
	async sendImage({ jid, data, caption }) {
		const sent = await connected().sendMessage(jid, { image: Buffer.from(data, 'base64'), mimetype: 'image/jpeg', caption })
		return { key: sent.key }
	},
	async reject({ call, from }) {
		await connected().rejectCall(call, from)
		return {}
	},
	async read({ keys }) {
		await connected().readMessages(keys)
		return {}
	},
	async status() {
		return { connection, me: identity() }
	},
	async logout() {
		await connected().logout()
		return {}
	},
	async stop() {
		await socket?.end(undefined)
		await saved
		return {}
	}
}

serve(commands)

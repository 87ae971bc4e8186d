// Baileys as a peer beside the daemon: a loopback WhatsApp in a process of its own, and numbers linked in this one,
// each with its files as Baileys' own helper keeps them.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

import { stayOnLoopback } from '../tests/peers/loopback.mjs'

stayOnLoopback()
// libsignal tells the console about every session it closes.
console.info = console.warn = () => {}
const { baileys, trustRoot } = await import('../tests/peers/baileys/strict.mjs')
const { default: pino } = await import('../tests/peers/node_modules/pino/pino.js')
const { DisconnectReason, makeCacheableSignalKeyStore, makeWASocket, useMultiFileAuthState } = baileys

/** Pairings under way at once. */
export const PAIRINGS = 8
const VERSION = [2, 3000, 1043857760]
const logger = pino({ level: 'silent' })
const folder = mkdtempSync(join(tmpdir(), 'baileys-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))

/** Starts the simulator; how to call its control API. */
export const simulate = async program => {
	const simulator = spawn(program, ['--stop-on-stdin-eof'], { stdio: ['pipe', 'pipe', 'inherit'] })
	const lines = createInterface({ input: simulator.stdout })
	const announced = JSON.parse(await new Promise(resolve => lines.once('line', resolve)))
	trustRoot(announced.root_key)
	const call = async (method, path, body) => {
		const answer = await fetch(`${announced.control}${path}`, {
			method,
			headers: { 'content-type': 'application/json' },
			body: body && JSON.stringify(body)
		})
		if (!answer.ok) {
			throw new Error(`${path}: ${answer.status} ${await answer.text()}`)
		}
		return answer.json()
	}
	return { ws: announced.ws, ask: (path, body) => call('POST', path, body), look: path => call('GET', path) }
}

/** A phone number of line `number`. */
export const shop = number => `1555${String(number).padStart(7, '0')}`

/** Links a number and keeps it connected. `line.socket` is its present connection, `line.online` tells whether it is. */
const open = async (server, number, line) => {
	const { state, saveCreds } = await useMultiFileAuthState(join(folder, String(number)))
	const auth = { creds: state.creds, keys: makeCacheableSignalKeyStore(state.keys, logger) }
	const socket = makeWASocket({ auth, version: VERSION, waWebSocketUrl: server.ws, logger, getMessage: async () => undefined })
	line.socket = socket
	socket.ev.on('creds.update', saveCreds)
	socket.ev.on('messages.upsert', ({ messages }) => line.received.push(...messages))
	socket.ev.on('connection.update', async ({ connection, qr, lastDisconnect }) => {
		if (qr && !line.scanned) {
			line.scanned = true
			await server.ask(`/accounts/${shop(number)}/scan`, { qr })
		}
		if (connection === 'open') {
			line.online = true
			line.linked()
		}
		if (connection === 'close') {
			line.online = false
			if (lastDisconnect?.error?.output?.statusCode !== DisconnectReason.loggedOut) {
				await saveCreds()
				await open(server, number, line)
			}
		}
	})
}

/** Links `count` numbers, some at once; their lines, all online. */
export const link = async (server, count) => {
	const lines = []
	const numbers = Array.from({ length: count }, (_, number) => number)
	const some = async () => {
		for (let number = numbers.shift(); number !== undefined; number = numbers.shift()) {
			await server.ask('/accounts', { phone: `+${shop(number)}`, name: 'Shop' })
			const line = { received: [], online: false, scanned: false }
			lines[number] = line
			await new Promise((linked, failed) => {
				line.linked = linked
				open(server, number, line).catch(failed)
			})
		}
	}
	await Promise.all(Array.from({ length: PAIRINGS }, some))
	await until(() => lines.every(line => line.online))
	return lines
}

/** Waits for a condition. */
export const until = async done => {
	while (!(await done())) {
		await sleep(50)
	}
}

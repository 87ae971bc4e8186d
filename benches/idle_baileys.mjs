// What an idle session costs in Baileys: the peer beside `idle_sessions.rs`. N linked, online sessions in one
// Node process, each with its files as Baileys' own helper keeps them.
//
// node --expose-gc benches/idle_baileys.mjs PATH/TO/trunkline-simulator 100

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

import { stayOnLoopback } from '../tests/peers/loopback.mjs'

stayOnLoopback()
const { baileys, trustRoot } = await import('../tests/peers/baileys/strict.mjs')
const { default: pino } = await import('../tests/peers/node_modules/pino/pino.js')
const { DisconnectReason, makeCacheableSignalKeyStore, makeWASocket, useMultiFileAuthState } = baileys

const [program, count = '100'] = process.argv.slice(2)
const sessions = Number(count)
const AT_ONCE = 8
const VERSION = [2, 3000, 1043857760]
const logger = pino({ level: 'silent' })

const simulator = spawn(program, ['--stop-on-stdin-eof'], { stdio: ['pipe', 'pipe', 'inherit'] })
const [announced] = await new Promise(resolve => createInterface({ input: simulator.stdout }).once('line', line => resolve([JSON.parse(line)])))
trustRoot(announced.root_key)

const ask = async (path, body) => {
	const answer = await fetch(`${announced.control}${path}`, {
		method: 'POST',
		headers: { 'content-type': 'application/json' },
		body: JSON.stringify(body)
	})
	if (!answer.ok) {
		throw new Error(`${path}: ${answer.status} ${await answer.text()}`)
	}
}

const folder = mkdtempSync(join(tmpdir(), 'idle-baileys-'))
const online = new Set()

/** Opens a session, follows restarts and closes, and tells when it is online. */
const open = async (number, phone, first) => {
	const { state, saveCreds } = await useMultiFileAuthState(join(folder, String(number)))
	const auth = { creds: state.creds, keys: makeCacheableSignalKeyStore(state.keys, logger) }
	const socket = makeWASocket({ auth, version: VERSION, waWebSocketUrl: announced.ws, logger, getMessage: async () => undefined })
	socket.ev.on('creds.update', saveCreds)
	socket.ev.on('connection.update', async ({ connection, qr, lastDisconnect }) => {
		if (qr && !first.scanned) {
			first.scanned = true
			await ask(`/accounts/${phone}/scan`, { qr })
		}
		if (connection === 'open') {
			online.add(number)
			first.linked()
		}
		if (connection === 'close') {
			online.delete(number)
			if (lastDisconnect?.error?.output?.statusCode !== DisconnectReason.loggedOut) {
				await saveCreds()
				await open(number, phone, first)
			}
		}
	})
}

const resident = async () => {
	await sleep(10_000)
	globalThis.gc?.()
	await sleep(1_000)
	const status = readFileSync('/proc/self/status', 'utf8')
	return Number(/VmRSS:\s+(\d+)/.exec(status)[1])
}

const until = async done => {
	while (!done()) {
		await sleep(50)
	}
}

const empty = await resident()
console.log(`Node with Baileys, without sessions: ${empty} KiB resident`)

let start = performance.now()
const numbers = Array.from({ length: sessions }, (_, number) => number)
const link = async () => {
	for (let number = numbers.shift(); number !== undefined; number = numbers.shift()) {
		const phone = `1555${String(number).padStart(7, '0')}`
		await ask('/accounts', { phone: `+${phone}`, name: 'Shop' })
		await new Promise(linked => open(number, phone, { linked, scanned: false }).catch(error => { throw error }))
	}
}
await Promise.all(Array.from({ length: AT_ONCE }, link))
await until(() => online.size === sessions)
console.log(`linked ${sessions} sessions in ${((performance.now() - start) / 1e3).toFixed(1)} s, ${AT_ONCE} at once`)

const held = await resident()
console.log(`holding ${sessions} idle sessions: ${held} KiB resident, ${((held - empty) / sessions).toFixed(0)} KiB per session`)

const before = process.cpuUsage()
start = performance.now()
await sleep(30_000)
const used = process.cpuUsage(before)
const elapsed = (performance.now() - start) / 1e3
console.log(`idle CPU: ${((used.user + used.system) / 1e3 / elapsed / sessions).toFixed(3)} ms per session per second`)

rmSync(folder, { recursive: true, force: true })
process.exit(0)

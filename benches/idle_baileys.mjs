// What an idle session costs in Baileys: the peer beside `idle_sessions.rs`. N linked, online sessions in one
// Node process.
//
// node --expose-gc benches/idle_baileys.mjs PATH/TO/trunkline-simulator 100

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { PAIRINGS, link, simulate } from './baileys.mjs'

const [program, count = '100'] = process.argv.slice(2)
const sessions = Number(count)

const resident = async () => {
	await sleep(10_000)
	globalThis.gc?.()
	await sleep(1_000)
	const status = readFileSync('/proc/self/status', 'utf8')
	return Number(/VmRSS:\s+(\d+)/.exec(status)[1])
}

const server = await simulate(program)
const empty = await resident()
console.log(`Node with Baileys, without sessions: ${empty} KiB resident`)

let start = performance.now()
await link(server, sessions)
console.log(`linked ${sessions} sessions in ${((performance.now() - start) / 1e3).toFixed(1)} s, ${PAIRINGS} at once`)

const held = await resident()
console.log(`holding ${sessions} idle sessions: ${held} KiB resident, ${((held - empty) / sessions).toFixed(0)} KiB per session`)

const before = process.cpuUsage()
start = performance.now()
await sleep(30_000)
const used = process.cpuUsage(before)
const elapsed = (performance.now() - start) / 1e3
console.log(`idle CPU: ${((used.user + used.system) / 1e3 / elapsed / sessions).toFixed(3)} ms per session per second`)

process.exit(0)

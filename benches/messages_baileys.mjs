// How many messages Baileys carries: the peer beside `messages.rs`. L numbers in one Node process, each of which
// sends N texts to a customer who answers every one.
//
// node benches/messages_baileys.mjs PATH/TO/trunkline-simulator 20 200

import { link, simulate, until } from './baileys.mjs'

const [program, lines = '20', texts = '200'] = process.argv.slice(2)
const [L, N] = [Number(lines), Number(texts)]
/** Sends under way at once for each number. */
const AT_ONCE = 8

const customer = number => `1666${String(number).padStart(7, '0')}`
const percentile = (sorted, percent) => sorted[Math.min(Math.floor((sorted.length * percent) / 100), sorted.length - 1)]

const server = await simulate(program)
const shops = await link(server, L)
for (let number = 0; number < L; number++) {
	await server.ask('/accounts', { phone: `+${customer(number)}`, name: 'Customer' })
	await server.ask(`/accounts/${customer(number)}/reply`, { enabled: true, template: 'Answer to {text}' })
}
console.log(`${L} numbers, ${N} texts each, every text answered`)

const calls = []
const send = async (line, number) => {
	const left = Array.from({ length: N }, (_, text) => text)
	const some = async () => {
		for (let text = left.shift(); text !== undefined; text = left.shift()) {
			const start = performance.now()
			await line.socket.sendMessage(`${customer(number)}@s.whatsapp.net`, { text: `number ${text}` })
			calls.push(performance.now() - start)
		}
	}
	await Promise.all(Array.from({ length: AT_ONCE }, some))
}

const answers = line => new Set(line.received.filter(it => !it.key.fromMe).map(it => it.key.id)).size
const before = process.cpuUsage()
const start = performance.now()
await Promise.all(shops.map(send))
const sent = performance.now() - start
await until(() => shops.every(line => answers(line) >= N))
const elapsed = performance.now() - start
const used = process.cpuUsage(before)
calls.sort((a, b) => a - b)
const wanted = L * N
console.log(
	`out: all calls have returned after ${(sent / 1e3).toFixed(2)} s; a call takes ${percentile(calls, 50).toFixed(1)} ms (p50), ${percentile(calls, 99).toFixed(1)} ms (p99)`
)
console.log(
	`both ways: all answers received after ${(elapsed / 1e3).toFixed(2)} s, ${((2 * wanted * 1e3) / elapsed).toFixed(0)} messages/s; ` +
		`${((used.user + used.system) / 1e3 / (2 * wanted)).toFixed(2)} ms of its CPU per message`
)
process.exit(0)

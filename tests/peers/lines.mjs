// The line protocol of README.md: commands in on stdin, replies and events out on stdout.

import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'

/** Keeps stdout for the protocol: what libraries print goes to stderr. */
export const reserveStdout = () => {
	for (const method of ['log', 'info', 'debug', 'trace']) {
		console[method] = (...args) => console.error(...args)
	}
}

/** Writes an event. */
export const emit = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`)

/** Writes a failure that no command is to blame for. */
export const report = error => emit('error', { message: error?.stack ?? String(error) })

/** Answers commands until `stop`, or until whoever drove this is gone. */
export const serve = commands => {
	const handle = async line => {
		const { id, command, ...args } = JSON.parse(line)
		try {
			if (!Object.hasOwn(commands, command)) {
				throw new Error(`unknown command ${JSON.stringify(command)}`)
			}
			emit('reply', { id, result: await commands[command](args) })
		} catch (error) {
			emit('reply', { id, error: error?.message ?? String(error) })
		}
		if (command === 'stop') {
			process.exit(0)
		}
	}

	process.on('unhandledRejection', report)
	process.on('uncaughtException', report)

	const lines = createInterface({ input: process.stdin })
	lines.on('line', line => handle(line).catch(report))
	lines.on('close', () => process.exit(0))

	emit('ready', {})
}

/** What a file is known by: length and SHA-256 in hex. */
export const digest = data => ({ size: data.length, sha256: createHash('sha256').update(data).digest('hex') })

/** 32 bytes from hex; anything else is refused by name. */
export const rootKey = rootKeyHex => {
	if (!/^[0-9a-f]{64}$/i.test(rootKeyHex ?? '')) {
		throw new Error(`rootKeyHex: expected 32 bytes in hex, got ${JSON.stringify(rootKeyHex)}`)
	}
	return Buffer.from(rootKeyHex, 'hex')
}

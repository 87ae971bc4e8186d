// Refuses every connection that would leave this machine, whoever asks for it.

import net from 'node:net'

const isLoopback = host =>
	host === undefined || host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d+){3}$/.test(host)

/** The host that the arguments of `Socket.connect` name; undefined for a path or for localhost. */
const hostOf = args => {
	const first = Array.isArray(args[0]) ? args[0][0] : args[0]
	if (typeof first === 'object' && first !== null) {
		return first.host
	}
	return typeof args[1] === 'string' ? args[1] : undefined
}

const connect = net.Socket.prototype.connect

/** Where clients look for media before the server has named a host: it stands in their code. */
const MEDIA_HOST = 'mmg.whatsapp.net'

/** Has a connection to that host go to `PEER_MEDIA_HOST` (`127.0.0.1:port`), as a resolver of names would. */
const standIn = args => {
	const options = Array.isArray(args[0]) ? args[0][0] : args[0]
	const { PEER_MEDIA_HOST: place } = process.env
	if (place !== undefined && options?.host === MEDIA_HOST) {
		const [host, port] = place.split(':')
		Object.assign(options, { host, port })
	}
}

/** From now on only loopback can be reached. */
export const stayOnLoopback = () => {
	net.Socket.prototype.connect = function (...args) {
		standIn(args)
		const host = hostOf(args)
		if (!isLoopback(host)) {
			throw new Error(`refused to connect to ${host}: peers stay on loopback`)
		}
		return connect.apply(this, args)
	}
}

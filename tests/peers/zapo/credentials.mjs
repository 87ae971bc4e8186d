// Keeps a device's credentials in a file, and nothing else: the Signal sessions and prekeys of a
// client die with its process. A client that comes back is a device that lost its state.

import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'

/** A store backend for zapo-js with the one domain that it insists on. */
export const credentialsIn = dir => {
	const file = join(dir, 'credentials')
	const auth = {
		async load() {
			try {
				return deserialize(await readFile(file))
			} catch (error) {
				if (error.code === 'ENOENT') {
					return null
				}
				throw error
			}
		},
		async save(credentials) {
			await mkdir(dir, { recursive: true })
			await writeFile(`${file}.new`, serialize(credentials))
			await rename(`${file}.new`, file)
		},
		async clear() {
			await rm(file, { force: true })
		}
	}
	return { stores: { auth: () => auth }, caches: {} }
}

// Bundles by Sigstore's own packages, with a key and no log:
//
//   node dsse.mjs sign KEY.pem     makes one of the statement on standard input
//   node dsse.mjs verify KEY.pem   says of each line of standard input, a bundle as
//                                  one string of JSON, "true" or why it is not one
import { bundleFromJSON, bundleToJSON, toDSSEBundle } from '@sigstore/bundle'
import { dsse } from '@sigstore/core'
import { Verifier, toSignedEntity, toTrustMaterial } from '@sigstore/verify'
import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'

const [, , verb, file] = process.argv
const input = readFileSync(0)
const type = 'application/vnd.in-toto+json'

if (verb === 'sign') {
  const key = createPrivateKey(readFileSync(file))
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' })
  const bundle = toDSSEBundle({
    artifact: input,
    artifactType: type,
    signature: sign('sha256', dsse.preAuthEncoding(type, input), key),
    keyHint: createHash('sha256').update(spki).digest('hex'),
  })
  process.stdout.write(JSON.stringify(bundleToJSON(bundle)))
} else {
  const publicKey = createPublicKey(readFileSync(file))
  const nobody = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] }
  const trust = toTrustMaterial(nobody, () => ({ publicKey, validFor: () => true }))
  const verifier = new Verifier(trust, { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 })
  const lines = input.toString().split('\n').filter(Boolean)
  console.log(lines.map((line) => {
    try {
      const bundle = bundleFromJSON(JSON.parse(JSON.parse(line)))
      verifier.verify(toSignedEntity(bundle))
      return true
    } catch (e) {
      return String(e).split('\n')[0]
    }
  }).join('\n'))
}

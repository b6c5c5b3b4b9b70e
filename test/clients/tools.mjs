// Scenarios of the official TypeScript SDKs at the door to tools: the one up to protocol
// 2025-11-25 (sdk), and the one after (client). One line of JSON for each.
const [, , url, which] = process.argv
const { Client } = await import(which === 'sdk' ? '@modelcontextprotocol/sdk/client/index.js' : '@modelcontextprotocol/client')
const { StreamableHTTPClientTransport } = await import(which === 'sdk' ? '@modelcontextprotocol/sdk/client/streamableHttp.js' : '@modelcontextprotocol/client')

async function scenario(name, run) {
  try {
    await run()
    console.log(JSON.stringify({ name }))
  } catch (e) {
    console.log(JSON.stringify({ name, error: String(e?.stack ?? e) }))
  }
}

function same(got, want) {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`)
}

function has(text, want) {
  if (!String(text).includes(want)) throw new Error(`no ${want} in ${text}`)
}

async function fails(promise, want) {
  try {
    await promise
  } catch (e) {
    has(e.message, want)
    return
  }
  throw new Error('it passed')
}

const client = new Client({ name: 'harness', version: '1' }, which === 'sdk' ? {} : { versionNegotiation: { mode: 'auto' } })
const transport = new StreamableHTTPClientTransport(new URL(url))
const call = (name, args) => client.callTool({ name, arguments: args })

await scenario('connect', async () => {
  await client.connect(transport)
  same(client.getServerVersion().name, 'sallyport')
  same(Object.keys(client.getServerCapabilities()), ['tools'])
  same(client.getInstructions(), undefined)
})
await scenario('list', async () => {
  const { tools } = await client.listTools()
  same(tools.map((t) => t.name), ['echo', 'get-annotated-message', 'get-resource-links', 'get-structured-content', 'get-sum', 'get-tiny-image', 'trigger-long-running-operation'])
  same(tools[0].description, 'Echoes back the input string')
})
await scenario('text', async () => same((await call('echo', { message: 'hi' })).content, [{ type: 'text', text: 'Echo: hi' }]))
await scenario('numbers', async () => has((await call('get-sum', { a: 40, b: 2 })).content[0].text, '42'))
await scenario('picture', async () => same((await call('get-tiny-image', {})).content.map((c) => c.type), ['text', 'image', 'text']))
await scenario('structured', async () => same(Object.keys((await call('get-structured-content', { location: 'Chicago' })).structuredContent).sort(), ['conditions', 'humidity', 'temperature']))
await scenario('optional', async () => has((await call('get-annotated-message', { messageType: 'error' })).content[0].text, 'Error'))
await scenario('long', async () => has((await call('trigger-long-running-operation', { duration: 1, steps: 2 })).content[0].text, 'completed'))
await scenario('many_at_once', async () => {
  const all = await Promise.all([1, 2, 3, 4, 5].map((n) => call('get-sum', { a: n, b: 0 })))
  all.forEach((r, i) => has(r.content[0].text, String(i + 1)))
})
await scenario('refused_links', async () => {
  const { content } = await call('get-resource-links', { count: 2 })
  same(content.filter((c) => c.type !== 'text'), [])
  has(JSON.stringify(content), 'left out')
})
await scenario('refused_argument', async () => {
  const r = await call('echo', { message: 'hi', bcc: 'eve' })
  same(r.isError, true)
  has(r.content[0].text, 'unknown_field (form)')
})
await scenario('refused_tool', async () => has((await call('get-env', {})).content[0].text, 'outside_grant (grant)'))
await scenario('refused_unknown_tool', async () => has((await call('Echo', { message: 'hi' })).content[0].text, 'outside_grant (grant)'))
await scenario('no_prompts', () => fails(client.request({ method: 'prompts/list' }, { parse: (x) => x, '~standard': { version: 1, vendor: 'x', validate: (value) => ({ value }) } }), ''))
await scenario('close', () => client.close())
process.exit(0)

// A server's whole life as Xen Orchestra's own client leads it; says what it saw as one JSON object.
//
// The client's mechanisms are used as they are: objects that events keep up to date, tasks that are
// watched, barriers, bytes by putResource and getResource. Whatever it warns of is told too.

import assert from 'node:assert/strict'
import { createReadStream, createWriteStream, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createClient } from 'xen-api'

const given = JSON.parse(readFileSync(0, 'utf8'))
const seen = { steps: [], warnings: [] }
console.warn = (...words) => seen.warnings.push(words.map(String).join(' '))

const xapi = createClient({
  url: given.url,
  auth: { user: 'root', password: given.password },
  allowUnauthorized: given.allowUnauthorized,
  transport: given.transport,
  debounce: 10,
})

const did = step => {
  seen.steps.push(step)
  process.stderr.write(`${step}\n`)
}

/** Wait until the events have made an object what it should be. */
const until = (ref, isSo) =>
  new Promise(resolve => {
    const look = () => {
      const object = xapi.getObjectByRef(ref, undefined)
      if (object !== undefined && isSo(object)) {
        for (const event of ['add', 'update']) xapi.objects.removeListener(event, look)
        resolve(object)
      }
    }
    for (const event of ['add', 'update']) xapi.objects.on(event, look)
    look()
  })

/** Wait until the events have taken all objects of a type away. */
const untilNone = type =>
  new Promise(resolve => {
    const look = () => {
      if (!Object.values(xapi.objects.all).some(_ => _.$type === type)) {
        xapi.objects.removeListener('remove', look)
        resolve()
      }
    }
    xapi.objects.on('remove', look)
    look()
  })

const named = (type, name) => {
  const found = Object.values(xapi.objects.all).filter(_ => _.$type === type && _.name_label === name)
  assert.equal(found.length, 1, `${type} ${name}`)
  return found[0]
}

/** Send a file into a disk, its length told or not. */
const fill = (vdi, name, format, { isLengthTold = true } = {}) => {
  const path = join(given.directory, name)
  const body = createReadStream(path)
  if (isLengthTold) body.length = statSync(path).size
  return xapi.putResource(body, '/import_raw_vdi/', { query: { format, vdi } })
}

/** Save a disk as a file; the task tells that it is whole. */
const save = async (vdi, name, format, base) => {
  const query = { format, vdi, ...(base === undefined ? {} : { base }) }
  const response = await xapi.getResource('/export_raw_vdi/', { query })
  await pipeline(response.body, createWriteStream(join(given.directory, name)))
  await response.task
}

/** Save a server that is not running, with its disks, as one file. */
const archive = async (ref, name, use_compression) => {
  const response = await xapi.getResource('/export/', { query: { ref, use_compression } })
  await pipeline(response.body, createWriteStream(join(given.directory, name)))
  await response.task
}

/** Make a server of such a file, its length told or not; give it as the task names it. */
const unarchive = async (SR, name, { isLengthTold }) => {
  const path = join(given.directory, name)
  const body = createReadStream(path)
  if (isLengthTold) body.length = statSync(path).size
  const result = await xapi.putResource(body, '/import/', {
    query: { force: false, sr_id: SR.$ref },
  })
  return /OpaqueRef:[0-9a-z-]+/.exec(result)[0]
}

const makeDisk = (SR, name) =>
  xapi.call('VDI.create', {
    SR: SR.$ref,
    name_label: name,
    name_description: '',
    virtual_size: given.sizeBytes,
    type: 'user',
    sharable: false,
    read_only: false,
    other_config: {},
  })

/** Keep a server as it is now; give the snapshot and its disk. */
const keep = async (vm, name) => {
  const ref = await xapi.callAsync('VM.snapshot', vm, name)
  const snapshot = await xapi.barrier(ref)
  assert.equal(snapshot.$snapshot_of.$ref, vm)
  const [vbd] = snapshot.$VBDs
  assert.equal(vbd.$VDI.is_a_snapshot, true)
  return { ref, vdi: vbd.VDI }
}

const walk = async () => {
  await xapi.connect()
  await xapi.objectsFetched
  const near = named('SR', 'near')
  const far = named('SR', 'far')
  const [home] = near.$PBDs.map(_ => _.$host).filter(_ => _.$ref === xapi.pool.master)
  const [there] = Object.values(xapi.objects.all).filter(_ => _.$type === 'host' && _ !== home)
  did('connect')

  const memory = 256 * 1024 * 1024
  const template = await xapi.call('VM.create', {
    name_label: 'template',
    name_description: '',
    is_a_template: true,
    affinity: 'OpaqueRef:NULL',
    memory_static_max: memory,
    memory_dynamic_max: memory,
    memory_dynamic_min: memory,
    memory_static_min: 0,
    VCPUs_max: 1,
    VCPUs_at_startup: 1,
    VCPUs_params: {},
    actions_after_shutdown: 'destroy',
    actions_after_reboot: 'restart',
    actions_after_crash: 'restart',
    PV_bootloader: '',
    PV_kernel: '',
    PV_ramdisk: '',
    PV_args: '',
    PV_bootloader_args: '',
    PV_legacy_args: '',
    HVM_boot_policy: 'BIOS order',
    HVM_boot_params: { order: 'cd' },
    platform: {},
    PCI_bus: '',
    recommendations: '',
    user_version: 1,
    other_config: {},
  })
  assert.equal((await xapi.barrier(template)).is_a_template, true)
  const vm = await xapi.callAsync('VM.clone', template, 'server')
  await xapi.callAsync('VM.provision', vm)
  const server = await xapi.barrier(vm)
  assert.equal(server.is_a_template, false)
  await server.set_name_description('made by another client')
  await server.update_other_config('xo:resource_set', 'one')
  await server.add_tags('web')
  const told = await xapi.barrier(vm)
  assert.equal(told.name_description, 'made by another client')
  assert.equal(told.other_config['xo:resource_set'], 'one')
  assert.deepEqual(told.tags, ['web'])
  did('create from template')

  const disk = await makeDisk(near, 'disk')
  await fill(disk, 'image.vhd', 'vhd')
  await save(disk, 'imported.raw', 'raw')
  did('import')

  await xapi.call('VBD.create', {
    VM: vm,
    VDI: disk,
    userdevice: '0',
    bootable: true,
    mode: 'RW',
    type: 'Disk',
    empty: false,
    unpluggable: true,
    other_config: {},
    qos_algorithm_type: '',
    qos_algorithm_params: {},
  })
  await xapi.call('VIF.create', {
    VM: vm,
    network: home.$PIFs[0].network,
    device: '0',
    MAC: '',
    MTU: 1500,
    other_config: {},
    qos_algorithm_type: '',
    qos_algorithm_params: {},
  })
  await xapi.callAsync('VM.start_on', vm, home.$ref, false, false)
  const running = await until(vm, _ => _.power_state === 'Running')
  assert.equal(running.$resident_on.$ref, home.$ref)
  assert.equal((await xapi.barrier(disk)).$VBDs[0].currently_attached, true)
  did('start')

  const first = await keep(vm, 'first')
  did('snapshot')
  await save(first.vdi, 'full.vhd', 'vhd')
  did('export full')

  await assert.rejects(fill(disk, 'change.raw', 'raw'), 'a disk in use takes no bytes')
  await xapi.callAsync('VM.clean_shutdown', vm)
  await until(vm, _ => _.power_state === 'Halted')
  await fill(disk, 'change.raw', 'raw')
  await xapi.callAsync('VM.start', vm, false, false)
  await until(vm, _ => _.power_state === 'Running')
  did('change')

  const second = await keep(vm, 'second')
  await save(second.vdi, 'delta.vhd', 'vhd', first.vdi)
  await save(second.vdi, 'second.raw', 'raw')
  did('export delta')

  const restored = await makeDisk(far, 'restored')
  await fill(restored, 'full.vhd', 'vhd')
  await fill(restored, 'delta.vhd', 'vhd')
  await save(restored, 'restored.raw', 'raw')
  const unmeasured = await makeDisk(far, 'unmeasured')
  await fill(unmeasured, 'full.vhd', 'vhd', { isLengthTold: false })
  await fill(unmeasured, 'delta.vhd', 'vhd', { isLengthTold: false })
  await save(unmeasured, 'unmeasured.raw', 'raw')
  await fill(unmeasured, 'imported.raw', 'raw', { isLengthTold: false })
  await save(unmeasured, 'unmeasured again.raw', 'raw')
  did('restore')

  await archive(second.ref, 'second.xva', 'false')
  await archive(second.ref, 'second.xva.gz', 'gzip')
  const archived = []
  for (const name of ['second.xva', 'second.xva.gz']) {
    for (const isLengthTold of [true, false]) {
      const made = await xapi.barrier(await unarchive(far, name, { isLengthTold }))
      assert.equal(made.name_label, 'second')
      assert.equal(made.is_a_snapshot, false)
      assert.equal(made.$VIFs.length, 1)
      const [vbd] = made.$VBDs
      await save(vbd.VDI, `archived ${archived.length}.raw`, 'raw')
      archived.push({ ref: made.$ref, vdi: vbd.VDI })
    }
  }
  did('archive')

  await xapi.callAsync('VM.pool_migrate', vm, there.$ref, { force: 'true' })
  await until(vm, _ => _.resident_on === there.$ref)
  did('migrate')
  const dest = await xapi.call('host.migrate_receive', there.$ref, there.$PIFs[0].network, {})
  await xapi.callAsync('VM.assert_can_migrate', vm, dest, true, { [disk]: far.$ref }, {}, {})
  await xapi.callAsync('VM.migrate_send', vm, dest, true, { [disk]: far.$ref }, {}, {})
  await until(disk, _ => _.SR === far.$ref)
  const third = await keep(vm, 'third')
  await save(third.vdi, 'migrated.raw', 'raw')
  did('migrate storage')

  await assert.rejects(xapi.call('VM.destroy', vm), { code: 'VM_BAD_POWER_STATE' })
  await assert.rejects(xapi.callAsync('VM.unpause', vm), { code: 'VM_BAD_POWER_STATE' })
  await xapi.callAsync('VM.hard_shutdown', vm)
  const vms = [first.ref, second.ref, third.ref, vm, template, ...archived.map(_ => _.ref)]
  for (const ref of vms) await xapi.callAsync('VM.destroy', ref)
  const vdis = [first.vdi, second.vdi, third.vdi, disk, restored, unmeasured]
  vdis.push(...archived.map(_ => _.vdi))
  for (const ref of vdis) await xapi.callAsync('VDI.destroy', ref)
  await xapi.barrier()
  for (const ref of [...vms, ...vdis]) assert.equal(xapi.getObjectByRef(ref, null), null)
  // What the disks stood on is collected in the background.
  await untilNone('VDI')
  assert.deepEqual(await xapi.call('VDI.get_all'), [])
  did('destroy')
  await xapi.disconnect()
}

// It exits by force, for the client goes on waiting for events until their time is up.
walk().then(
  () => process.stdout.write(JSON.stringify(seen), () => process.exit(0)),
  error => {
    process.stderr.write(`${error.stack}\n${JSON.stringify({ ...error, seen }, null, 1)}\n`, () => process.exit(1))
  }
)

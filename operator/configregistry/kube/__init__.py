"""The API server, typed: requests, objects in memory, versions, status writes, Events. asyncio.

    async with await connect(kubeconfig, context) as api:     # NoClusterError says what to do
        await preflight(api, namespaces, CONTROLLER_NEEDS)    # or SERVE_NEEDS; MissingCrdError, …

    registries = Reflector(api, REGISTRIES.path(namespace), decode_registry, name="registries")
    registries.subscribe(on_change)       # (key, old | None, new | None), synchronously, in order
    task = asyncio.create_task(registries.run())         # never ends but by cancel
    await registries.synced.wait()
    registries.store[("shop", "checkout")]   # RegistryObject(meta, spec: bytes, status: bytes)
    registries.staleness()                   # 0.0 while a watch is open; None before the first list
    registries.errors, registries.unreadable # counted by reason; objects that could not be decoded
    # versions: Reflector(api, REVISIONS.path(ns), decode_revision, name=…, page=50,
    #     params={"labelSelector": LABEL_REGISTRY}) -> RevisionObject(.number .hash .content())
    # ConfigMaps: Reflector(api, CONFIGMAPS.path(ns), decode_meta, metadata_only=True, name=…)

    await read_configmap(api, ns, name)      # ConfigMapData(data, resource_version) | None: 404
    await record(api, owner_meta, content, parent=7, last_version=8)      # VersionInfo; repeatable
    await restore(api, owner_meta, revision)             # deleted by hand: again under its number
    await claim(api, revision)                           # before status names an old version
    for revision, verdict in due_marks(revisions, status): await mark(api, revision, verdict)
    await prune(api, owner_meta, reported={3})           # numbers deleted
    recover(revisions, uid)                              # Status from the marks
    await write_status(api, registry, status)            # RegistryObject; Conflict: decide again

    recorder = Recorder(api, instance=pod)            # run() in a task; tell(meta, note); drain()

Failures (`failures.py`): ApiError(status, reason, message, retry_after, details, outcome_unknown) >
NotFound, Conflict, AlreadyExists, Gone, Forbidden, Unauthorized, Invalid, Throttled, Unavailable.
Only `Unavailable` can have `outcome_unknown`; a 404 that no API server wrote is `Unavailable`.

It must never know health, reconcile, handlers, serve or kopf. `connect` imports `kubernetes`.
"""

// The token comes with the address that was printed, behind the #, which no browser sends.
export function readToken() {
  const given = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return stored(sessionStorage, "nutgraf.token", given) ?? "";
}

// What a store has under a name, after putting `value` there if it is given.
export function stored(store, name, value) {
  try {
    if (value !== undefined) store.setItem(name, value);
    return store.getItem(name);
  } catch {
    return value; // the browser allows this page no store
  }
}

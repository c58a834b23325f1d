// The token comes with the address that was printed, behind the #, which no browser sends.
export function readToken() {
  const token = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return stored("sessionStorage", "nutgraf.token", token) ?? "";
}

// What a store of the browser has under a name, after putting `value` there if there is one.
export function stored(store, name, value) {
  try {
    if (value !== undefined) window[store].setItem(name, value);
    return window[store].getItem(name);
  } catch {
    return value; // the browser allows this page no store
  }
}

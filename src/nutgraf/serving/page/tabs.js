// A bar of tabs between pages of one server: [label, address], null for the page that is shown. The
// token goes along, so that a tab can be opened in another window too.
import { element } from "./show.js";

export function showTabs(token, ...tabs) {
  document.querySelector("header").after(element("nav", { class: "tabs", "aria-label": "Pages" },
    ...tabs.map(([label, address]) => address === null
      ? element("span", { "aria-current": "page" }, label)
      : element("a", { href: `${address}#token=${token}` }, label))));
}

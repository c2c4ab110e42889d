/** The entry point of the page, and the sign-in: one dialog, whichever request is refused first. */
import * as chat from "./chat.js";
import {byId} from "./elements.js";
import * as instance from "./instance.js";
import {ask, inWords, post} from "./server.js";

const dialog = byId("login"), token = byId("token"), problem = byId("login-error");
let asking = null;

/** Shows the dialog until the instance accepts the token. */
function unauthorized() {
  asking ??= new Promise(resolve => {
    dialog.showModal();
    dialog.oncancel = event => event.preventDefault();
    dialog.querySelector("form").onsubmit = async event => {
      event.preventDefault();
      problem.textContent = "";
      try {
        await post("console", {token: token.value});
      } catch (error) {
        problem.textContent = error.status === 401 ? "The token is not correct." : inWords(error.code, error.message);
        token.select();
        return;
      }
      token.value = "";
      dialog.close();
      asking = null;
      resolve(true);
    };
  });
  return asking;
}

/** Signs in with the secret in the link that the instance has logged, and removes it from the address. */
async function useLink() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await post("console", {token: given}).catch(() => {});  // the dialog asks for another one
}

byId("leave").addEventListener("click", () => ask("console", {method: "DELETE"}).catch(() => {}).then(() => location.reload()));

// -- the two views: the chat, and the instance for its operator ----------------------------------

const views = ["chat", "instance"];

/** Shows one view. The address names it, so that a link and a reload lead to it. */
function view(name) {
  document.body.dataset.view = name;
  for (const each of views) {
    byId(each).hidden = each !== name;
    byId(`to-${each}`).toggleAttribute("aria-current", each === name);
  }
  if (name === "chat") byId("text").focus({preventScroll: true});
}

const chosen = () => views.find(each => location.hash === `#${each}`) ?? "chat";

addEventListener("hashchange", () => view(chosen()));

await useLink();
chat.begin(unauthorized);
instance.follow(unauthorized, id => { chat.show(id); location.hash = "#chat"; view("chat"); });
view(chosen());

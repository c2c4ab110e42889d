/** The entry point of the page, and the dialog for the token: one dialog, whichever request is refused first. */
import * as chat from "./chat.js";
import {byId} from "./elements.js";
import * as instance from "./instance.js";
import {inWords, post} from "./server.js";

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

chat.begin(unauthorized);
instance.follow(unauthorized, id => { chat.show(id); byId("text").focus(); });
byId("text").focus({preventScroll: true});

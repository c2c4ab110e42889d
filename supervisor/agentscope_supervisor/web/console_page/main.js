/** The page's beginning, and the token: asked for once, whoever finds that it is wanted. */
import * as chat from "./chat.js";
import {byId} from "./elements.js";
import * as instance from "./instance.js";
import {inWords, post} from "./server.js";

const dialog = byId("login"), token = byId("token"), problem = byId("login-error");
let asking = null;

/** Asks for the token until it is right. */
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
        problem.textContent = error.status === 401 ? "This is not the token." : inWords(error.code, error.message);
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

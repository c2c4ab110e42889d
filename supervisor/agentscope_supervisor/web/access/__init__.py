"""Access to the routes: tokens and scopes, pages of other origins, wrong tokens, tickets, sign-ins."""

// Begins, once the page is there.

document.getElementById("ask-form").addEventListener("submit", tokenGiven);
document.getElementById("forget").addEventListener("click", tokenForgotten);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) askNow();
});
setInterval(freshness, 1000);
askNode();

// Begins, once the page is there.

document.getElementById("ask-form").addEventListener("submit", tokenGiven);
document.getElementById("forget").addEventListener("click", tokenForgotten);
// It does not bubble.
document.getElementById("volumes").addEventListener("toggle", foldedByHand, true);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) askNow();
});
setInterval(freshness, 1000);
askNode();

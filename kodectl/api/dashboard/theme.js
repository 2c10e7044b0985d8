// Before the page is drawn, so that it does not flash in the other theme.
"use strict";

try {
  const kept = localStorage.getItem("kodectl-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch {
  // No storage: the system's theme holds.
}

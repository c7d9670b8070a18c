// Small things that the browser keeps for this page.

// What is kept in localStorage; null where there is nothing or nothing readable.
export function read(place) {
  try {
    return JSON.parse(localStorage.getItem(place));
  } catch {
    return null;
  }
}

// Keeps something in localStorage; false where there is no room.
export function write(place, value) {
  try {
    localStorage.setItem(place, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

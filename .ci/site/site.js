// Light and dark theme, the menu on narrow screens, search, and the copy button of code blocks.
const $ = id => document.getElementById(id), up = document.currentScript.dataset.up
$('theme').onclick = () => { const d = document.documentElement.dataset; d.theme = d.theme == 'dark' ? 'light' : 'dark'; localStorage.setItem('theme', d.theme) }
$('menu').onclick = () => $('menu').setAttribute('aria-expanded', $('sidebar').classList.toggle('open'))

const input = $('search'), found = $('found')
// titles and headings first, then text: an entry matches if it contains every word
function score([page, heading, , text], words) {
  const head = `${page} ${heading}`.toLowerCase(), last = (heading || page).toLowerCase()
  if (!words.every(w => head.includes(w))) return words.every(w => head.includes(w) || text.toLowerCase().includes(w)) ? 3 : 9
  return last == words.join(' ') ? 0 : last.startsWith(words[0]) ? 1 : 2
}
function excerpt(text, words) {
  const at = text.toLowerCase().search(new RegExp(words.map(w => w.replace(/[^\w]/g, '\\$&')).join('|')))
  if (at < 0) return ''
  const from = at < 40 ? 0 : text.indexOf(' ', at - 40) + 1
  return (from ? '… ' : '') + text.slice(from, at + 70) + (at + 70 < text.length ? ' …' : '')
}
function hit([page, heading, href, text], words, inText) {
  const li = document.createElement('li'), a = li.appendChild(document.createElement('a'))
  a.href = up + href; a.textContent = heading || page
  for (const t of [heading && page, inText && excerpt(text, words)]) if (t) a.appendChild(document.createElement('small')).textContent = t
  return li
}
function search() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean)
  const scored = words.length ? SEARCH.map((e, i) => [score(e, words), i, e]).filter(h => h[0] < 9) : []
  const hits = scored.sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, 20)
  found.replaceChildren(...hits.map(([rank, , entry]) => hit(entry, words, rank == 3)))
  if (words.length && !hits.length) found.innerHTML = '<li><a>Nothing found</a></li>'
  found.hidden = !words.length
}
input.oninput = search; input.onfocus = search
input.onkeydown = e => { if (e.key == 'Enter') found.querySelector('a[href]')?.click(); if (e.key == 'Escape') { input.value = ''; search() } }
document.addEventListener('click', e => { if (!e.target.closest('.search')) found.hidden = true })
document.addEventListener('keydown', e => { if (e.key == '/' && document.activeElement != input && !e.ctrlKey) { e.preventDefault(); input.focus() } })

for (const t of document.querySelectorAll('main table, main pre')) if (t.scrollWidth > t.clientWidth) t.tabIndex = 0 // so that the keyboard can scroll it

for (const pre of document.querySelectorAll('main .highlight pre')) {
  const b = pre.parentNode.appendChild(document.createElement('button'))
  b.className = 'copy'; b.textContent = 'Copy'; b.onclick = () => navigator.clipboard.writeText(pre.textContent).then(() => { b.textContent = 'Copied'; setTimeout(() => b.textContent = 'Copy', 1200) })
}
document.querySelector('#sidebar [aria-current]')?.scrollIntoView({block: 'nearest'})

// Light and dark theme, the menu on narrow screens, search in titles and headings, and the copy button of code blocks.
const $ = id => document.getElementById(id), up = document.currentScript.dataset.up
$('theme').onclick = () => { const d = document.documentElement.dataset; d.theme = d.theme == 'dark' ? 'light' : 'dark'; localStorage.setItem('theme', d.theme) }
$('menu').onclick = () => $('menu').setAttribute('aria-expanded', $('sidebar').classList.toggle('open'))

const input = $('search'), found = $('found')
const score = ([page, heading], words) => { const t = `${page} ${heading}`.toLowerCase(), h = (heading || page).toLowerCase(); return words.every(w => t.includes(w)) ? (h == words.join(' ') ? 0 : h.startsWith(words[0]) ? 1 : 2) : 9 }
function search() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean)
  const hits = words.length ? SEARCH.map((e, i) => [score(e, words), i, e]).filter(h => h[0] < 9).sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, 20) : []
  found.replaceChildren(...hits.map(([, , [page, heading, href]]) => {
    const li = document.createElement('li'), a = li.appendChild(document.createElement('a'))
    a.href = up + href; a.textContent = heading || page; if (heading) a.appendChild(document.createElement('small')).textContent = page
    return li }))
  if (words.length && !hits.length) found.innerHTML = '<li><a>Nothing found</a></li>'
  found.hidden = !words.length
}
input.oninput = search; input.onfocus = search
input.onkeydown = e => { if (e.key == 'Enter') found.querySelector('a[href]')?.click(); if (e.key == 'Escape') { input.value = ''; search() } }
document.addEventListener('click', e => { if (!e.target.closest('.search')) found.hidden = true })
document.addEventListener('keydown', e => { if (e.key == '/' && document.activeElement != input && !e.ctrlKey) { e.preventDefault(); input.focus() } })

for (const pre of document.querySelectorAll('main .highlight pre')) {
  const b = pre.parentNode.appendChild(document.createElement('button'))
  b.className = 'copy'; b.textContent = 'Copy'; b.onclick = () => navigator.clipboard.writeText(pre.textContent).then(() => { b.textContent = 'Copied'; setTimeout(() => b.textContent = 'Copy', 1200) })
}
document.querySelector('#sidebar [aria-current]')?.scrollIntoView({block: 'nearest'})

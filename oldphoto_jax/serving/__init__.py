"""The page of `oldphoto serve`: a box of photos, restored and corrected in a browser.

`box` keeps the photos on disk, `studio` restores them with the engine and the folder job of
`oldphoto restore`, `worker` does that one photo after the other, `pictures` shrinks them for the
screen, `guard` decides whom the server answers, `app` is what it answers, and `server` runs it.
The folder `page` holds what the browser gets: plain HTML, CSS and modules.
"""

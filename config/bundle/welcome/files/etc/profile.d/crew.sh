# Tools that the site's bundle brings.
export CREW_HOME=/srv/site

"""General knowledge, written down by us: relations, how they are said, and who stands in them.

`FACTS[relation] = (sentence, other words for it, {subject: answer})`. A sentence holds `{s}` and `{a}`.
"""

from __future__ import annotations


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.replace("\n", "").split("; "))


_CAPITALS = _pairs(
    "France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Austria=Vienna; Hungary=Budapest; "
    "Poland=Warsaw; Greece=Athens; Turkey=Ankara; Russia=Moscow; Norway=Oslo; Sweden=Stockholm; Finland=Helsinki; "
    "Denmark=Copenhagen; Iceland=Reykjavik; Ireland=Dublin; Belgium=Brussels; Netherlands=Amsterdam; Switzerland=Bern; "
    "Romania=Bucharest; Bulgaria=Sofia; Serbia=Belgrade; Croatia=Zagreb; Ukraine=Kyiv; Japan=Tokyo; China=Beijing; "
    "India=New Delhi; Thailand=Bangkok; Vietnam=Hanoi; Indonesia=Jakarta; Australia=Canberra; New Zealand=Wellington; "
    "Canada=Ottawa; Mexico=Mexico City; Cuba=Havana; Brazil=Brasília; Argentina=Buenos Aires; Chile=Santiago; Peru=Lima; "
    "Colombia=Bogotá; Egypt=Cairo; Kenya=Nairobi; Nigeria=Abuja; Ghana=Accra; Morocco=Rabat; Ethiopia=Addis Ababa; "
    "South Korea=Seoul; Iran=Tehran; Iraq=Baghdad; Nepal=Kathmandu; Mongolia=Ulaanbaatar; Jamaica=Kingston"
)
_SYMBOLS = _pairs(
    "hydrogen=H; helium=He; lithium=Li; carbon=C; nitrogen=N; oxygen=O; fluorine=F; neon=Ne; sodium=Na; magnesium=Mg; "
    "silicon=Si; sulfur=S; chlorine=Cl; potassium=K; calcium=Ca; iron=Fe; nickel=Ni; copper=Cu; zinc=Zn; silver=Ag; tin=Sn; "
    "tungsten=W; platinum=Pt; gold=Au; mercury=Hg; lead=Pb; uranium=U"
)
_ATOMIC_NUMBERS = _pairs(
    "hydrogen=1; helium=2; lithium=3; carbon=6; nitrogen=7; oxygen=8; neon=10; sodium=11; magnesium=12; silicon=14; "
    "sulfur=16; chlorine=17; calcium=20; iron=26; nickel=28; copper=29; zinc=30; silver=47; gold=79; lead=82; uranium=92"
)
_CURRENCIES = _pairs(
    "Japan=yen; India=rupee; China=yuan; Russia=rouble; Poland=złoty; Hungary=forint; Denmark=krone; Sweden=krona; "
    "Switzerland=franc; Brazil=real; Mexico=peso; South Africa=rand; Turkey=lira; Thailand=baht; Vietnam=dong; Israel=shekel; "
    "South Korea=won; Canada=dollar"
)
_YEARS = _pairs(
    "the fall of the Berlin Wall=1989; the first moon landing=1969; the end of the Second World War=1945; "
    "the start of the First World War=1914; the French Revolution=1789; the sinking of the Titanic=1912; "
    "the Battle of Hastings=1066; the American Declaration of Independence=1776; the Great Fire of London=1666; "
    "the discovery of America by Columbus=1492; the Battle of Waterloo=1815; the Russian Revolution=1917; "
    "the Chernobyl accident=1986; the first flight of the Wright brothers=1903; the fall of Constantinople=1453; "
    "the founding of the United Nations=1945; the launch of Sputnik=1957; the opening of the Suez Canal=1869"
)
_AUTHORS = _pairs(
    "Hamlet=William Shakespeare; Don Quixote=Miguel de Cervantes; War and Peace=Leo Tolstoy; "
    "Crime and Punishment=Fyodor Dostoevsky; Pride and Prejudice=Jane Austen; Moby-Dick=Herman Melville; "
    "Oliver Twist=Charles Dickens; Frankenstein=Mary Shelley; Dracula=Bram Stoker; Faust=Johann Wolfgang von Goethe; "
    "The Divine Comedy=Dante Alighieri; Les Misérables=Victor Hugo; Madame Bovary=Gustave Flaubert; The Odyssey=Homer; "
    "Ulysses=James Joyce; The Trial=Franz Kafka; Animal Farm=George Orwell; The Hobbit=J. R. R. Tolkien"
)
_INVENTORS = _pairs(
    "the telephone=Alexander Graham Bell; dynamite=Alfred Nobel; the movable-type printing press=Johannes Gutenberg; "
    "the World Wide Web=Tim Berners-Lee; the theory of relativity=Albert Einstein; penicillin=Alexander Fleming; "
    "the law of universal gravitation=Isaac Newton; radium=Marie Curie; the theory of evolution=Charles Darwin; "
    "the periodic table=Dmitri Mendeleev"
)
_PLACES = _pairs(
    "the Eiffel Tower=Paris; the Colosseum=Rome; the Taj Mahal=Agra; the Kremlin=Moscow; the Acropolis=Athens; "
    "the Brandenburg Gate=Berlin; the Statue of Liberty=New York; Big Ben=London; the Sagrada Família=Barcelona; "
    "the Prado Museum=Madrid; the Blue Mosque=Istanbul; the Sydney Opera House=Sydney; Machu Picchu=Peru; Petra=Jordan"
)
_EXTREMES = _pairs(
    "largest planet=Jupiter; smallest planet=Mercury; planet closest to the sun=Mercury; planet farthest from the sun=Neptune; "
    "hottest planet=Venus; red planet=Mars; largest ocean=Pacific; largest continent=Asia; highest mountain=Everest; "
    "longest river of Africa=Nile; largest hot desert=Sahara; largest island=Greenland; fastest land animal=cheetah; "
    "largest animal=blue whale; tallest animal=giraffe; largest bird=ostrich; hardest natural mineral=diamond; "
    "lightest element=hydrogen; smallest country=Vatican City; most abundant gas in the air=nitrogen"
)
_COUNTS = _pairs(
    "a spider's legs=8; an insect's legs=6; players of a football team=11; sides of a hexagon=6; sides of an octagon=8; "
    "squares of a chessboard=64; bones of an adult human=206; keys of a piano=88; strings of a violin=4; "
    "planets of the solar system=8; chambers of the human heart=4; letters of the English alphabet=26; "
    "continents of the earth=7; cards of a standard deck=52; players of a basketball team=5; teeth of an adult human=32"
)
_LANGUAGES = _pairs(
    "Brazil=Portuguese; Austria=German; Mexico=Spanish; Egypt=Arabic; Iran=Persian; Argentina=Spanish; "
    "Jamaica=English; Angola=Portuguese; Israel=Hebrew; Ethiopia=Amharic"
)

FACTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "capital": ("The capital of {s} is {a}.", "capital city", _CAPITALS),
    "symbol": ("The chemical symbol of {s} is {a}.", "chemical symbol element", _SYMBOLS),
    "atomic_number": ("The atomic number of {s} is {a}.", "atomic number protons element", _ATOMIC_NUMBERS),
    "currency": ("The currency of {s} is the {a}.", "currency money pay", _CURRENCIES),
    "year": ("The year of {s} was {a}.", "year when happen take place", _YEARS),
    "author": ("{s} was written by {a}.", "author wrote written writer book", _AUTHORS),
    "inventor": ("We owe {s} to {a}.", "invented discovered came up inventor discoverer", _INVENTORS),
    "place": ("You find {s} in {a}.", "where city stand located find", _PLACES),
    "extreme": ("The {s} is {a}.", "name world called", _EXTREMES),
    "count": ("The number of {s} is {a}.", "how many number has", _COUNTS),
    "language": ("The main language of {s} is {a}.", "language speak spoken official", _LANGUAGES),
}

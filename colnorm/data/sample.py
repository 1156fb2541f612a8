"""Tagged sentences that need no file: news in miniature from a seeded grammar, with the eight entity types of GMB.

Names are invented: stems and endings put together, so that endings tell a type (Dorvistan, Halgrad, Tolmov Corp.), words
of several types (Washington, Jordan, May) and words that are a name only sometimes (may, march, august), so that the
context has to. Validation and test also draw from name parts and words that training never shows.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from colnorm.data.schemes import Sentence

_T = TypeVar("_T")
_Part = str | tuple[Any, ...]

_SIZES = (4000, 600, 600)  # train, validation, test
_HEADLINES = 0.1
_OPTIONAL = 0.6
_UNSEEN = 0.4  # of the draws from `_PARTS` in validation and test

# The rules: alternatives are separated by " | " and drawn evenly. A word stands for itself; $rule for what that rule
# makes; type=rule for the same as an entity; [2-9] for a whole number from 2 to 9; what stands between ( and ) comes
# with probability _OPTIONAL; + joins parts to one word.
_RULES = {
    # sentences
    "sentence": "$attack . | $attack . | $speech . | $speech . | $travel . | $sport . | $business . | $disaster . |"
    " $election . | $health . | $court . | $culture . | $history . | $quote . | $plain . | $talk ."
    " | $talk . | $talk .",
    "attack": "$source said [2-60] $victims were $hurt ($where) (and [2-40] others wounded) ($after) | $gunmen $hit $target"
    " ($where) ($when) (, killing [2-60] people (, including $victim)) | $troops $clashed with $gunmen near geo=place ($when)"
    " (, $source said) | a (powerful) bomb exploded near $building in geo=town ($when) (, wounding $victim)",
    "speech": "$leading ($when) $said $claim | $actor ($when) $said $claim ($occasion) | $actor $urged $actor to $act ($when)"
    " | $leading , who $role , $said $claim | $actor and $actor ($when) agreed to $act ($occasion) | $actor may $act ($when)"
    " | in a speech ($where) , $leading $urged $actor to $act (by $deadline) | $leading of org=party $said $claim ($when)",
    "travel": "$leading ($when) arrived in geo=place (for talks with $leading) ($occasion)"
    " | $leading will visit geo=place ($when) (to discuss the $issue) | $leading left geo=place for geo=place ($when)"
    " | $leading met $leading ($where) ($when)"
    " | $number $victims will march (with $leading) to $building (in geo=town) ($when)",
    "sport": "org=team beat org=team [1-6]+-+[0-3] ($when) (in eve=games) | per=athlete (of geo=country) won eve=games"
    " ($where) ($when) | per=athlete scored [2-5] goals (for org=team) as gpe=country beat gpe=country ($when)"
    " | the gpe=people champion , per=athlete , defeated per=athlete (of geo=country) in eve=games",
    "business": "org=company ($when) said its $profits $moved [2-60] percent ($during) | shares of org=company $moved [2-30]"
    " percent (in geo=town) ($when) | org=company will buy org=company for $ [2-90] (billion) | the price of $goods $moved to"
    " $ [20-99] a $unit ($where) ($when) | org=company named per=person as its chief $chief ($when)"
    " | the gpe=people company org=company plans to sell $goods to geo=country (by $deadline)",
    "disaster": "nat=storm ($when) struck $coast (, killing [2-60] people) (, $source said) | $officials $where say nat=storm"
    " (has) destroyed $number $property ($when) | a strong $quake (with a magnitude of [5-8]+.+[1-9]) shook geo=place ($when)"
    " | heavy rains along geo=water ($when) forced $number people to leave (geo=town)",
    "election": "voters in geo=place went to the polls ($when) (to choose between per=leader and per=leader) | org=party won"
    " [20-70] percent of the vote in geo=place ($when) | $leading lost the election to per=leader ($where) ($when)"
    " | the gpe=people parliament ($when) chose per=leader as $office (of geo=country)",
    "health": "$officials ($when) confirmed [2-60] cases of nat=disease ($where) | org=agency says nat=disease has spread"
    " (from geo=place) to geo=place ($when) | a gpe=people $job (in geo=town) died of nat=disease ($when)"
    " | $source tested $number birds for nat=disease (near geo=water)",
    "court": "a court in geo=town ($when) sentenced per=person to [2-40] years in prison (for $crime) | police in geo=town"
    " arrested per=person (, a gpe=people $job ,) ($when) for $crime | per=person , a gpe=people $job , was freed ($when)"
    " (after [2-20] years in prison) | lawyers for per=person asked a court (in geo=town) to $act",
    "culture": 'the $job per=person won art=award for " art=book " ($when) | " art=book , " by per=person , opened ($where)'
    " ($when) | a museum in geo=town will show art=book ($during) | per=person will sing at eve=games (in geo=town) ($when)",
    "history": "geo=country became independent from geo=country in tim=year | geo=country (and geo=country) signed art=treaty"
    " ($where) in tim=year | per=person was born in geo=town in tim=year | eve=war ended in tim=year (, leaving $number people"
    " homeless) | the economy of geo=country (, near geo=water ,) depends on $goods",
    "quote": '" $fact , " $said $actor ($when) ($occasion) | per=person told org=media ($when) that $fact | " may the $talks'
    ' $go , " $said per=leader',
    "plain": "the $talks may $go (next month) | may the $talks $go | the $officials $said the bank is closed | rain is expected"
    " ($where) ($when) | no group has claimed the attack ($where) | more than [2-90] $victims will march to $building ($when)"
    " | the $job will $go (with the $officials) ($when) | an august $job wrote about $goods and the $issue",
    "talk": "$victims ($where) talk about $thing (and $thing) ($when) | $thing was in the news ($when) | a $job wrote a book"
    " about $thing ($during) | $actor and $actor will discuss $thing ($when) | for many $victims $thing means $issue"
    " | nobody ($where) has forgotten $thing (since tim=year) | $thing , not $thing , is to blame",
    "headline": "$thing and the $issue | $thing or $thing ? | $actor : $fact | $actor to $act ($when) | [2-90] $hurt $where"
    " | nat=storm hits geo=place | org=company may buy org=company | per=athlete wins eve=games | gpe=people $job held in"
    " geo=town (for $crime) | per=leader in geo=town for talks on $issue | nat=disease spreads in geo=place",
    # entities
    "person": "$given $surname | $given $surname | $given $letter+. $surname | $given $particle $surname",
    "athlete": "$given $surname | $surname",
    "leader_title": "Mr. | Mrs. | President | Prime Minister | Senator | General | King",
    "surname": "$stem+$name_end | $stem+$name_end | $stem+$shared_end | $shared_name | al-+$stem+$name_end",
    "shared_name": "Washington | Jordan | Paris | Lincoln | Austin | Houston | Sydney | Florence | Dallas | May | August",
    "shared_town": "Washington | Paris | Lincoln | Austin | Houston | Sydney | Florence | Dallas",
    "town": "$stem+$town_end | $stem+$town_end | $stem+$shared_end | $shared_town | New $stem+$town_end | $stem+$town_end City",
    "country": "$stem+$country_end | $stem+$country_end | $side_name $stem+$country_end | Jordan | Georgia | Chad"
    " | Republic of $stem+$country_end | United Republic of $side_name $stem+$country_end",
    "side_name": "North | South | East | West",
    "water": "$stem+$town_end River | Lake $stem+$shared_end | Gulf of $stem+$country_end | $stem+$shared_end Bay",
    "place": "$town | $country | Mount $stem+$shared_end | $stem+$shared_end Valley",
    "people": "$stem+$people_end | $stem+$people_end | $side_name $stem+$people_end | Jordanian | Georgian",
    "company": "$stem+$shared_end $firm | $stem+$name_end & $stem+$name_end | $acronym | $stem+$town_end $industry"
    " | $stem+$tech_end | $stem+$shared_end $industry $firm | $stem+$shared_end | Lincoln",
    "acronym": "$letter+$letter+$letter | $letter+$letter+$letter+$letter",
    "letter": "A | B | C | D | F | G | K | L | M | N | P | R | S | T | U | W",
    "party": "$stem+$people_end $politics Party | $politics Party of $stem+$country_end | $acronym | $politics Alliance",
    "agency": "$acronym | World $ministry Organization | Ministry of $ministry | University of $stem+$town_end | "
    "$stem+$people_end Red Cross | $stem+$country_end Central Bank | $ministry Department",
    "media": "$acronym | $stem+$people_end Television | $stem+$town_end Times | Radio $stem+$country_end",
    "team": "$stem+$town_end | $shared_town | $stem+$town_end United | $stem+$shared_end | FC $stem+$town_end",
    "storm": "Hurricane $given | Typhoon $given | Tropical Storm $given | $given",
    "disease": "H+[1-9]+N+[1-9] | $stem+$town_end virus | $stem+$virus_end | $stem+$virus_end fever",
    "games": "$stem+$people_end Open | World Cup | $stem+$shared_end Cup | Olympics | [2-40]+th $stem+$town_end Games"
    " | $stem+$town_end Film Festival | [1960-2012] $stem+$town_end Games",
    "summit": "$stem+$town_end Summit | $stem+$people_end Peace Conference | World Economic Forum",
    "war": "World War II | Battle of $stem+$town_end | $stem+$people_end Civil War | $stem+$shared_end War",
    "award": "$stem+$shared_end Prize | $stem+$name_end Peace Prize | $stem+$people_end Book Award",
    "book": "The $book_word of $stem+$town_end | $given 's $book_word | The $book_word | $book_word and $book_word"
    " | $stem+$name_end",
    "treaty": "Treaty of $stem+$town_end | $stem+$shared_end Accord | $stem+$town_end Peace Agreement",
    "year": "[1900-2013]",
    "date": "$weekday | $weekday | $month [1-30] | [1-30] $month | $month [1-30] , [1990-2013] | $month [1990-2013]"
    " | $weekday $part",
    "period": "[1950-2013] | $month | the [195-199]+0s | mid-+$month | early [1990-2013]",
    "clock": "[1-12]+:+[10-59] p.m. | [1-12] a.m. | noon",
    "weekday": "Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday",
    "month": "January | February | March | April | May | June | July | August | September | October | November | December",
    "leader": "$given $surname | $surname | $leader_title $surname | $leader_title $given $surname",
    "capital": "$shared_town | $stem+$town_end | $stem+$shared_end",
    "plain_surname": "$stem+$name_end",
    "plain_town": "$stem+$town_end",
    "plain_country": "$stem+$country_end",
    "plain_people": "$stem+$people_end",
    "plain_company": "$stem+$tech_end",
    "plain_disease": "$stem+$virus_end",
    # endings, the same in all splits: what tells the type of a word never seen
    "name_end": "ov | son | ez | sen | ini | escu | ak | ier | enko",
    "town_end": "ville | burg | grad | abad | pur | port | mouth | haven",
    "country_end": "stan | land | onia | istan | mark | desh",
    "people_end": "ian | ish | ese | onian | stani | lander",
    "shared_end": "ton | ford | field | ley | worth | wick",
    "virus_end": "osis | itis | pox | emia",
    "tech_end": "soft | tronics | net | tel | ware",
    # what stands between them
    "actor": "gpe=country | org=agency | per=leader | org=party | the gpe=people government | geo=capital"
    " | gpe=people $officials",
    "leading": "per=leader | per=leader | gpe=people $office per=leader | $office per=leader | the gpe=people $office",
    "when": "on tim=date | tim=weekday | late tim=weekday | in tim=month | last week | today | at tim=clock | on tim=date",
    "during": "in tim=period | during tim=period | since tim=period",
    "deadline": "tim=date | tim=year | the end of tim=month | the summer",
    "where": "in geo=place | near geo=town | outside geo=town | in $side geo=country | at $building in geo=town"
    " | along geo=water",
    "side": "northern | southern | eastern | western | central",
    "after": "after $actor $urged talks | after the $talks | hours after per=leader left geo=place",
    "occasion": "at eve=summit | during the $talks | at $building in geo=town | as eve=games opened",
    "source": "$officials | witnesses | org=media | police | org=agency | gpe=people police | the gpe=people army",
    "troops": "gpe=people $soldiers | $soldiers from geo=country | the gpe=people army | gpe=country",
    "coast": "geo=place | the coast of geo=country | towns along geo=water | the gpe=people coast",
    "target": "$building | gpe=people $soldiers | a convoy of org=agency | the home of per=leader | two reporters of org=media",
    "victim": "per=person | a gpe=people $job | [2-9] gpe=people $soldiers | the $office",
    "role": "took $office_word in tim=year | is visiting geo=place | leads org=party | won eve=games (in tim=year)",
    "office_word": "office | power",
    "number": "[2-90] | [2-90]+,000 | hundreds of | dozens of",
    "thing": "$plain_thing | $plain_thing | $plain_thing | $plain_thing | $plain_thing | $plain_thing | per=athlete"
    " | per=person | geo=place | geo=country | org=company | org=team | org=party | eve=games | eve=war"
    " | art=book | art=treaty | nat=storm | nat=disease",
    "plain_thing": "per=plain_surname | geo=plain_town | geo=plain_country | gpe=plain_people | org=plain_company"
    " | nat=plain_disease",
    "claim": "$fact | that $fact | it will $act | gpe=country must $act | there is no $issue in geo=place",
    "fact": "the $talks will $go | geo=place is safe | gpe=country will $act | $actor should $act | the $issue is over",
    "act": "$verb $object | $verb $object (with $actor) | withdraw $soldiers from geo=place | sign art=treaty",
    "object": "the $talks | sanctions on geo=country | aid to geo=place | the $issue | art=treaty",
}

# Word lists: those of training, and those that validation and test draw from besides.
_PARTS = {
    "stem": (
        "Kar Vel Dor Tol Zar Bel Nor Hal Mir Sol Tarn Brak Lind Perv Garl Rost Fen Wes Cald Mor Tam Kal Vor Ber Lan Jas Dun"
        " Rav Sel Gor Hav Pal Kesh Bran Thal Mel Sar Vin Kol Ter Lor Mav Nard Pol Ryl Stam Tur Varn Wol Zem",
        "Quor Grin Blath Dres Fald Hob Jur Krell Lum Nev Prin Skal Trov Yast Zul Brem Cort Wend Rusk Mith",
    ),
    "given": (
        "Anna Daniel Maria Viktor Elena Thomas Sara Omar Ivan Laura Peter Nadia Carlos Helen Ahmed Julia Robert Irina Paul"
        " Fatima Georgia Chad Jordan April Katrina Gustav Ida Florence Austin Sydney August Nina Hugo Leila Marcus",
        "Stefan Yasmin Oscar Ingrid Rafael Miriam Dmitri Bertha Felix Amina Theo Olga Samuel Rosa Kenji",
    ),
    "firm": ("Corp. Inc. Ltd. Group Holdings", "AG Co."),
    "industry": ("Steel Bank Airlines Oil Motors Telecom", "Energy Foods"),
    "politics": ("Democratic Liberal Green National Workers", "Reform Social"),
    "ministry": ("Health Defense Justice Trade Labor Food", "Transport Interior"),
    "book_word": ("River Winter Garden Silence Daughter House March Summer Letter Stone", "Orchard Shadow Bridge"),
    "particle": ("van bin de al", "von"),
    "part": ("morning night evening", "afternoon"),
    "said": ("said warned insisted announced repeated", "stressed declared"),
    "urged": ("urged asked told pressed", "begged"),
    "officials": ("officials ministers diplomats doctors lawmakers", "inspectors scientists"),
    "soldiers": ("troops soldiers forces police", "marines"),
    "victims": ("people civilians workers students protesters prisoners", "farmers tourists"),
    "gunmen": ("gunmen rebels militants insurgents", "kidnappers"),
    "job": ("journalist engineer lawyer teacher farmer writer singer doctor banker", "pilot poet nurse"),
    "office": ("president minister governor mayor", "chancellor"),
    "chief": ("executive economist engineer", "scientist"),
    "hurt": ("killed wounded arrested", "injured"),
    "hit": ("attacked raided shelled", "ambushed"),
    "clashed": ("clashed fought", "battled"),
    "building": ("parliament embassies hospitals schools", "barracks"),
    "moved": ("rose fell climbed dropped", "jumped slid"),
    "profits": ("profits sales exports", "losses"),
    "goods": ("oil cotton wheat gold", "copper coffee"),
    "property": ("homes shops schools", "farms"),
    "unit": ("barrel ton", "pound"),
    "quake": ("earthquake quake", "tremor"),
    "crime": ("murder fraud spying treason", "bribery smuggling"),
    "talks": ("talks negotiations vote ceasefire elections march", "inquiry"),
    "go": ("continue fail begin end resume", "collapse succeed"),
    "issue": ("crisis dispute violence conflict program", "blockade famine"),
    "verb": ("support discuss reject end review begin", "suspend oppose"),
}


def generate(seed: int = 0) -> tuple[list[Sentence], list[Sentence], list[Sentence]]:
    """4,000 training, 600 validation and 600 test sentences, no two of them with equal words; a function of `seed` alone.

    The entity types are art, eve, geo, gpe, nat, org, per and tim. One sentence of ten is a headline, and of these some
    are all in upper or all in lower case. The same `seed` gives the same sentences with every version of Python, as only
    the generator's `random()` is used. Raises ValueError for a negative `seed`.
    """
    if seed < 0:  # Random would take -1 for 1
        raise ValueError(f"expected a seed >= 0, got {seed}")
    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    splits: list[list[Sentence]] = []
    for size, unseen in zip(_SIZES, (0.0, _UNSEEN, _UNSEEN), strict=True):
        split: list[Sentence] = []
        while len(split) < size:
            sentence = _sentence(rng, unseen)
            if sentence.words not in seen:
                seen.add(sentence.words)
                split.append(sentence)
        splits.append(split)
    train, validation, test = splits
    return train, validation, test


def _sentence(rng: random.Random, unseen: float) -> Sentence:
    headline = rng.random() < _HEADLINES
    tagged = _expand(rng, "$headline" if headline else "$sentence", unseen)
    words, tags = [word for word, _ in tagged], [tag for _, tag in tagged]
    first = next(place for place, word in enumerate(words) if word[0].isalnum())  # behind a quotation mark
    words[first] = words[first][0].upper() + words[first][1:]
    style = rng.random()
    if headline and style < 0.4:
        words = [word.upper() for word in words]
    elif headline and style < 0.6:
        words = [word.lower() for word in words]
    return Sentence(tuple(words), tuple(tags))


def _expand(rng: random.Random, part: _Part, unseen: float) -> list[tuple[str, str]]:
    """What one part of an alternative becomes: words with their tags."""
    if isinstance(part, tuple):
        return [pair for inner in part for pair in _expand(rng, inner, unseen)] if rng.random() < _OPTIONAL else []
    kind, equals, rule = part.partition("=")
    if equals:
        words = [word for word, _ in _expand(rng, f"${rule}", unseen)]
        return [(word, f"{'I' if place else 'B'}-{kind}") for place, word in enumerate(words)]
    if "+" in part:
        return [("".join(word for piece in part.split("+") for word, _ in _expand(rng, piece, unseen)), "O")]
    if part.startswith("["):
        low, high = map(int, part[1:-1].split("-"))
        return [(str(low + int(rng.random() * (high + 1 - low))), "O")]
    if not part.startswith("$") or part == "$":
        return [(part, "O")]
    name = part[1:]
    if name in _PARTS:
        seen, held_out = _PARTS[name]
        return [(_choose(rng, (held_out if rng.random() < unseen else seen).split(" ")), "O")]
    return [pair for inner in _choose(rng, _alternatives(name)) for pair in _expand(rng, inner, unseen)]


def _choose(rng: random.Random, choices: Sequence[_T]) -> _T:
    return choices[int(rng.random() * len(choices))]


@cache
def _alternatives(name: str) -> tuple[tuple[_Part, ...], ...]:
    """What a rule may become, parsed: what stands between ( and ) is a tuple."""
    result = []
    for text in _RULES[name].split(" | "):
        nested: list[list[_Part]] = [[]]
        for part in text.replace("(", "( ").replace(")", " )").split(" "):
            if part == "(":
                nested.append([])
            elif part == ")":
                optional = tuple(nested.pop())
                nested[-1].append(optional)
            else:
                nested[-1].append(part)
        result.append(tuple(nested.pop()))
    return tuple(result)

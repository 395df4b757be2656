"""ISO 639's codes of languages: those of two letters, and languages that are several, as the standard counts them.

Does not know which of them anything can tell.
"""

from __future__ import annotations

_TWO_LETTERS = """
aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul bi:bis
bm:bam bn:ben bo:bod br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces cu:chu cv:chv cy:cym da:dan de:deu
dv:div dz:dzo ee:ewe el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas ff:ful fi:fin fj:fij fo:fao fr:fra fy:fry
ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:hye hz:her ia:ina
id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl it:ita iu:iku ja:jpn jv:jav ka:kat kg:kon ki:kik kj:kua kk:kaz
kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao
lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mri mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt my:mya na:nau nb:nob nd:nde
ne:nep ng:ndo nl:nld nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori os:oss pa:pan pi:pli pl:pol
ps:pus pt:por qu:que rm:roh rn:run ro:ron ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag sh:hbs si:sin sk:slk
sl:slv sm:smo sn:sna so:som sq:sqi sr:srp ss:ssw st:sot su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir
tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol
wa:wln wo:wol xh:xho yi:yid yo:yor za:zha zh:zho zu:zul
"""
_MACROLANGUAGES = """
aka: fat twi
ara: aao abh abv acm acq acw acx acy adf aeb aec afb ajp apc apd arb arq ars ary arz auz avl ayh ayl ayn ayp bbz pga
  shu ssh
aym: ayc ayr
aze: azb azj
bal: bcc bgn bgp
bik: bcl bhk bln bto cts fbl lbl rbl ubl
bnc: ebk lbk obk rbk vbk
bua: bxm bxr bxu
chm: mhr mrj
cre: crj crk crl crm csw cwd
del: umu unm
den: scs xsl
din: dib dik dip diw dks
doi: dgo xnr
est: ekk vro
fas: pes prs
ful: ffm fub fuc fue fuf fuh fui fuq fuv
gba: bdt gbp gbq gmm gso gya
gon: esg gno wsg
grb: gbo gec grj grv gry
grn: gnw gug gui gun nhd
hai: hax hdn
hbs: bos cnr hrv srp
hmn: cqd hea hma hmc hmd hme hmg hmh hmi hmj hml hmm hmp hmq hms hmw hmy hmz hnj hrm huj mmr muq mww sfm
iku: ike ikt
ipk: esi esk
jrb: ajt aju jye yhd yud
kau: kby knc krt
kln: enb eyo niq oki pko sgc spy tec tuy
kok: gom knn
kom: koi kpv
kon: kng kwy ldi
kpe: gkp xpe
kur: ckb kmr sdh
lah: hnd hno jat phr pmu pnb skr xhe
lav: ltg lvs
luy: bxk ida lkb lko lks lri lrm lsm lto lts lwg nle nyd rag
man: emk mku mlq mnk msc mwk myq
mlg: bhr bjq bmm bzc msh plt skg tdx tkg txy xmv xmw
mon: khk mvf
msa: bjn btj bve bvu coa dup hji in ind jak jax kvb kvr kxd lce lcf liw max meo mfa mfb min mqg msi mui orn ors pel
  pse tmw urk vkk vkt xmm zlm zmi zsm
mwr: dhd mtr mve rwr swv wry
nep: dty npi
nor: nno nob
oji: ciw ojb ojc ojg ojs ojw otw
ori: ory spv
orm: gax gaz hae orc
pus: pbt pbu pst
que: cqu qub qud quf qug quh quk qul qup qur qus quw qux quy quz qva qvc qve qvh qvi qvj qvl qvm qvn qvo qvp qvs qvw
  qvz qwa qwc qwh qws qxa qxc qxh qxl qxn qxo qxp qxr qxt qxu qxw
raj: bgq gda gju hoj mup wbr
rom: rmc rmf rml rmn rmo rmw rmy
sqi: aae aat aln als
srd: sdc sdn src sro
swa: swc swh
syr: aii cld
tmh: taq thv thz ttq
uzb: uzn uzs
yid: ydd yih
zap: zaa zab zac zad zae zaf zai zam zao zaq zar zas zat zav zaw zax zca zoo zpa zpb zpc zpd zpe zpf zpg zph zpi zpj
  zpk zpl zpm zpn zpo zpp zpq zpr zps zpt zpu zpv zpw zpx zpy zpz zsr zte ztg ztl ztm ztn ztp ztq zts ztt ztu ztx
  zty
zha: zch zeh zgb zgm zgn zhd zhn zlj zln zlq zqe zyb zyg zyj zyn zzj
zho: cdo cjy cmn cnp cpx csp czh czo gan hak hsn lzh mnp nan wuu yue
zza: diq kiu
"""


def _parsed(table: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for word in table.split():
        if word.endswith(":"):
            members = found.setdefault(word[:-1], [])
        else:
            members.append(word)
    return {code: tuple(members) for code, members in found.items()}


THREE_LETTERS = dict(pair.split(":") for pair in _TWO_LETTERS.split())
"""ISO 639-3's code of each language that has one of two letters, ISO 639-1."""

MEMBERS = _parsed(_MACROLANGUAGES)
"""The single languages of each macrolanguage, such as swc and swh of Swahili (swa), by ISO 639-3's codes."""

_OF = {member: code for code, members in MEMBERS.items() for member in members}


def three_letters(code: str) -> str:
    """A code of ISO 639-1 as that of ISO 639-3; any other as it is."""
    return THREE_LETTERS.get(code, code)


def macrolanguage(code: str) -> str | None:
    """The macrolanguage that a language of ISO 639-3 belongs to, if to any."""
    return _OF.get(code)
